"""A host's name stands for several addresses: what each of them said is told."""

import logging
import socket
import socketserver
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trustme
from sqlalchemy.exc import DBAPIError

from mirrorfeed import BranchStatusClient
from mirrorfeed.amqp.connections import BrokerUnavailable, broker_channel, connection_parameters
from mirrorfeed.consumer.database import first_line, open_engine
from sandbox.ports import PortBlock
from tests.servers import wait_for

NAME = "several.example"
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
REFUSED = "Connection refused"
MISMATCH = "certificate is not valid for 'several.example'"


@pytest.fixture
def ports() -> Iterator[tuple[int, int, int]]:
    block = PortBlock()
    yield block.ports
    block.close()


@pytest.fixture
def amqps_url(
    ports: tuple[int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Of the name's addresses only the one in the middle answers, with another's certificate."""
    resolve = socket.getaddrinfo

    def resolve_name(host: str, *arguments: object, **named: object) -> list[object]:
        hosts = ADDRESSES if host == NAME else (host,)
        return [each for one in hosts for each in resolve(one, *arguments, **named)]  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve_name)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("other.example").configure_cert(tls)

    class Greeter(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            # A client that refuses the certificate hangs up.
            with suppress(OSError), tls.wrap_socket(self.request, server_side=True) as connection:
                connection.recv(1)

    with (
        socketserver.ThreadingTCPServer((ADDRESSES[1], ports[0]), Greeter) as server,
        ThreadPoolExecutor(1) as threads,
    ):
        serving = threads.submit(server.serve_forever, 0.05)
        yield f"amqps://{NAME}:{ports[0]}/?cacertfile={tmp_path / 'ca.pem'}"
        server.shutdown()
        serving.result()


def test_commands_tell_what_each_address_of_the_broker_said(amqps_url: str) -> None:
    """A person sees that the certificate is another host's, not just that nobody answers."""
    with pytest.raises(BrokerUnavailable) as error:
        broker_channel(connection_parameters(amqps_url)).__enter__()
    assert REFUSED in str(error.value)
    assert MISMATCH in str(error.value)


def test_a_forwarder_tells_what_each_address_of_the_broker_said(
    amqps_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the line in which it says that the broker is away."""

    def complaints() -> list[str]:
        return [record.because for record in caplog.records if hasattr(record, "because")]

    with (
        caplog.at_level(logging.WARNING, logger="mirrorfeed"),
        closing(BranchStatusClient(tmp_path / "spool.db", amqps_url)) as client,
    ):
        client.start_mirroring(1)
        wait_for(lambda: bool(complaints()), "a complaint")
    assert REFUSED in complaints()[0]
    assert MISMATCH in complaints()[0]


def test_what_each_address_of_the_database_said_is_told(ports: tuple[int, int, int]) -> None:
    """In one line, with the addresses."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    engine = open_engine(f"postgresql://{hosts}/mirrorfeed")
    with pytest.raises(DBAPIError) as error:
        engine.connect()
    said = first_line(error.value)
    assert all(f"port {port} failed: {REFUSED}" in said for port in ports)
    assert "\n" not in said
