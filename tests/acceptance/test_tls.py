"""Both servers over TLS: verified, always; and clients with certificates of their own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from sqlalchemy import Engine, make_url

from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.migrations import bring_forward
from mirrorfeed.consumer.partitions.topology import declare_topology
from mirrorfeed.contract import environment, routing
from sandbox import PrivatePostgreSQL, PrivateRabbitMQ
from sandbox.ports import PortBlock
from tests.commands import Shell
from tests.servers import register_branches, wait_for_rows
from tests.spools import status_of

FAILURES = "SELECT mirror_failures FROM branch"


class Certificates:
    """Files of an authority, of a server at 127.0.0.1 and of a client, and of a stranger's."""

    def __init__(self, folder: Path) -> None:
        authority, stranger = trustme.CA(), trustme.CA()
        server = authority.issue_cert("127.0.0.1")
        client = authority.issue_cert("puller@vostok.example")
        self.authority = folder / "ca.pem"
        self.stranger = folder / "stranger.pem"
        self.server, self.server_key = folder / "server.pem", folder / "server.key"
        self.client, self.client_key = folder / "client.pem", folder / "client.key"
        authority.cert_pem.write_to_path(str(self.authority))
        stranger.cert_pem.write_to_path(str(self.stranger))
        server.cert_chain_pems[0].write_to_path(str(self.server))
        server.private_key_pem.write_to_path(str(self.server_key))
        client.cert_chain_pems[0].write_to_path(str(self.client))
        client.private_key_pem.write_to_path(str(self.client_key))
        for key in (self.server_key, self.client_key):
            key.chmod(0o600)


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    """In a folder that the user who runs PostgreSQL can read."""
    folder = Path(tempfile.mkdtemp(prefix="mirrorfeed-tls-"))
    folder.chmod(0o755)
    try:
        yield Certificates(folder)
    finally:
        shutil.rmtree(folder)


def tls_broker(certificates: Certificates, port: int, **options: str) -> PrivateRabbitMQ:
    files = {
        "cacertfile": certificates.authority,
        "certfile": certificates.server,
        "keyfile": certificates.server_key,
    }
    return PrivateRabbitMQ(
        {
            "listeners.ssl.1": f"127.0.0.1:{port}",
            **{f"ssl_options.{name}": str(value) for name, value in {**files, **options}.items()},
        }
    )


@pytest.fixture(scope="module")
def broker_url(certificates: Certificates) -> Iterator[str]:
    """A broker with a certificate, that is set up, but without any parameters in the URL."""
    ports = PortBlock()
    with tls_broker(certificates, ports.ports[0]) as node:
        with broker_channel(connection_parameters(node.url)) as channel:
            declare_topology(channel, routing.DEFAULT_PARTITIONS)
        yield f"amqps://guest:guest@127.0.0.1:{ports.ports[0]}/%2F"
    ports.close()


@pytest.fixture(scope="module")
def demanding_url(certificates: Certificates) -> Iterator[str]:
    """A broker that asks its clients for a certificate."""
    ports = PortBlock()
    demands = {"verify": "verify_peer", "fail_if_no_peer_cert": "true"}
    with tls_broker(certificates, ports.ports[0], **demands):
        yield (
            f"amqps://guest:guest@127.0.0.1:{ports.ports[0]}/%2F"
            f"?cacertfile={certificates.authority}"
        )
    ports.close()


@pytest.fixture(scope="module")
def postgresql(certificates: Certificates) -> Iterator[PrivatePostgreSQL]:
    """A database with a certificate, which asks its clients for one where they use TLS."""
    with tempfile.TemporaryDirectory(prefix="mirrorfeed-tls-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        key, rules = folder / "server.key", folder / "hba.conf"
        shutil.copy(certificates.server_key, key)
        rules.write_text(
            "hostnossl all all 127.0.0.1/32 trust\n"
            "hostssl all all localhost trust clientcert=verify-ca\n"
        )
        if os.geteuid() == 0:  # the key must be the server's own
            shutil.chown(key, "postgres", "postgres")
        settings = {
            "ssl": "on",
            "ssl_cert_file": str(certificates.server),
            "ssl_key_file": str(key),
            "ssl_ca_file": str(certificates.authority),
            "hba_file": str(rules),
        }
        with PrivatePostgreSQL(settings) as server:
            engine = open_engine(server.url)
            bring_forward(engine)
            register_branches(engine, 1)
            engine.dispose()
            yield server


@pytest.fixture
def looking(postgresql: PrivatePostgreSQL) -> Iterator[Engine]:
    engine = open_engine(postgresql.url)
    yield engine
    engine.dispose()


def test_both_servers_are_used_over_tls(
    certificates: Certificates,
    demanding_url: str,
    postgresql: PrivatePostgreSQL,
    looking: Engine,
    tmp_path: Path,
) -> None:
    """Clients and servers verify each other's certificates."""
    files = f"{certificates.client}&{{}}={certificates.client_key}"
    shell = Shell(
        {
            environment.AMQP_URL: f"{demanding_url}&certfile={files.format('keyfile')}",
            environment.DATABASE_URL: (
                f"{postgresql.url}?sslmode=verify-full&sslrootcert={certificates.authority}"
                f"&sslcert={files.format('sslkey')}"
            ),
            environment.SPOOL: str(tmp_path / "spool.db"),
        }
    )
    shell.run("mirror-consumer", "init")
    shell.run("mirror-publisher", "failed", "1", "why")
    shell.run("mirror-publisher", "forward", "--drain")
    with shell.running("mirror-consumer", "run"):
        wait_for_rows(looking, FAILURES, [(1,)])
        used = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE"
        wait_for_rows(looking, f"{used} application_name = 'mirrorfeed' AND ssl", [(True,)])


def test_a_client_certificate_is_asked_for_only_by_some(
    broker_url: str, certificates: Certificates, tmp_path: Path
) -> None:
    """A broker that does not demand one accepts clients without."""
    shell = Shell(
        {
            environment.AMQP_URL: f"{broker_url}?cacertfile={certificates.authority}",
            environment.SPOOL: str(tmp_path / "spool.db"),
        }
    )
    shell.run("mirror-publisher", "failed", "1", "why")
    result = shell.run("mirror-publisher", "forward", "--drain")
    assert "connected to the broker" in result.stderr


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("stranger", "certificate verify failed"),
        ("system", "certificate verify failed"),
        ("host", "Hostname mismatch, certificate is not valid for 'localhost'"),
    ],
)
def test_a_broker_that_is_not_the_right_one_gets_nothing(
    broker_url: str, certificates: Certificates, tmp_path: Path, wrong: str, says: str
) -> None:
    """The event stays in the spool, and both sides say why."""
    url = {
        "stranger": f"{broker_url}?cacertfile={certificates.stranger}",
        "system": broker_url,
        "host": f"{broker_url.replace('127.0.0.1', 'localhost')}"
        f"?cacertfile={certificates.authority}",
    }[wrong]
    spool = tmp_path / "spool.db"
    shell = Shell({environment.AMQP_URL: url, environment.SPOOL: str(spool)})
    shell.run("mirror-publisher", "failed", "1", "why")
    result = shell.run("mirror-publisher", "forward", "--drain", "--stall-seconds", "1", expect=3)
    assert says in result.stderr
    assert status_of(spool).pending == 1


def test_a_renewed_certificate_needs_no_restart(
    broker_url: str, certificates: Certificates, tmp_path: Path
) -> None:
    """The files that a URL names are read again for each connection."""
    authority = tmp_path / "authority.pem"
    shutil.copy(certificates.stranger, authority)
    spool = tmp_path / "spool.db"
    url = f"{broker_url}?cacertfile={authority}"
    shell = Shell({environment.AMQP_URL: url, environment.SPOOL: str(spool)})
    with shell.running("mirror-publisher", "forward") as forwarder:
        assert forwarder.stderr is not None
        shell.run("mirror-publisher", "failed", "1", "why")
        for line in forwarder.stderr:
            if "certificate verify failed" in line.lower():
                break
        shutil.copy(certificates.authority, authority)
        for line in forwarder.stderr:
            if "connected to the broker" in line:
                break
        assert "connected to the broker" in line


def test_who_does_not_show_a_certificate_gets_nothing(demanding_url: str, tmp_path: Path) -> None:
    """The broker refuses the connection, and the event stays in the spool."""
    spool = tmp_path / "spool.db"
    shell = Shell({environment.AMQP_URL: demanding_url, environment.SPOOL: str(spool)})
    shell.run("mirror-publisher", "failed", "1", "why")
    result = shell.run("mirror-publisher", "forward", "--drain", "--stall-seconds", "1", expect=3)
    # The broker says so, unless the end of the connection overtakes its word.
    said = ("certificate required", "eof occurred in violation of protocol", "connection reset")
    assert any(each in result.stderr.lower() for each in said)
    assert status_of(spool).pending == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("stranger", "certificate verify failed"),
        ("host", "does not match host name"),
        ("none", "requires a valid client certificate"),
    ],
)
def test_a_database_that_is_not_the_right_one_is_not_used(
    postgresql: PrivatePostgreSQL, certificates: Certificates, wrong: str, says: str
) -> None:
    """libpq's verify-full refuses it and says why."""
    url = make_url(postgresql.url)
    authority = certificates.stranger if wrong == "stranger" else certificates.authority
    query = f"sslmode=verify-full&sslrootcert={authority}"
    host = "localhost" if wrong == "host" else "127.0.0.1"
    if wrong == "host":
        query += f"&sslcert={certificates.client}&sslkey={certificates.client_key}"
    database_url = f"postgresql://mirrorfeed@{host}:{url.port}/mirrorfeed?{query}"
    result = Shell({environment.DATABASE_URL: database_url}).run(
        "mirror-consumer", "status", expect=3
    )
    assert says in result.stderr
