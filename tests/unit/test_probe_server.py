"""How a service says over HTTP how it is, whoever asks."""

import http.client
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirrorfeed.contract import probe_server
from mirrorfeed.contract.probe_server import MAX_CONNECTIONS, listening_address, serving
from mirrorfeed.contract.probes import Probes
from tests.probes import ask
from tests.stub_service import Stub


@pytest.fixture
def service() -> Stub:
    return Stub()


@pytest.fixture
def port(service: Stub) -> Iterator[int]:
    with serving("127.0.0.1:0", Probes(service)) as port:
        yield port


def test_a_service_that_is_well_says_so(port: int) -> None:
    """With 200."""
    assert ask(port, "/live") == (200, "live\n", "text/plain; charset=utf-8")
    assert ask(port, "/ready") == (200, "ready\n", "text/plain; charset=utf-8")


def test_a_service_that_is_not_says_why(port: int, service: Stub) -> None:
    """With 503; what an error brought along cannot control a terminal, and shows no password."""
    service.hangs, service.waits = "it hangs", "amqp://u:secret@host/ \x1b[31m\nis away"
    assert ask(port, "/live")[:2] == (503, "not live: it hangs\n")
    said = ask(port, "/ready")
    assert said.status == 503
    assert said.text == "not ready: amqp://u:***@host/ \N{REPLACEMENT CHARACTER}[31m is away\n"


def test_metrics_are_those_of_the_process(port: int) -> None:
    """As Prometheus reads them."""
    said = ask(port, "/metrics?name=x")
    assert said.content_type is not None
    assert said.content_type.startswith("text/plain; version=")
    families = {family.name for family in text_string_to_metric_families(said.text)}
    assert "process_resident_memory_bytes" in families


def test_nothing_else_is_answered(port: int) -> None:
    """And nothing of a request comes back."""
    assert ask(port, "/%1b[31m")[:2] == (404, "there are /live, /ready and /metrics\n")
    assert ask(port, "/live", method="POST")[:2] == (501, "501\n")
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"\x1b[31m rubbish \x1b[0m here too\r\n\r\n")
        assert b"\x1b" not in raw.makefile("rb").read()


def test_a_head_is_an_answer_without_its_body(port: int) -> None:
    """As load balancers ask."""
    assert ask(port, "/live", method="HEAD")[:2] == (200, "")


def test_a_bug_in_a_probe_is_told_to_the_log_only(
    port: int, service: Stub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks learns that there was one."""

    def fail() -> str | None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(service, "why_not_live", fail)
    assert ask(port, "/live")[:2] == (500, "an error of ours: see the log\n")
    assert "ZeroDivisionError" in caplog.text


def test_slow_clients_keep_nobody_waiting(port: int) -> None:
    """However many there are: the oldest makes room."""
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(2 * MAX_CONNECTIONS)
        ]
        for each in slow:
            each.sendall(b"GET /live HTTP/1.1\r\n")
        assert ask(port, "/live").status == 200
        slow[0].settimeout(10)
        assert slow[0].recv(1) == b""


def test_a_client_that_never_ends_its_request_is_left(
    service: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it keeps sending."""
    monkeypatch.setattr(probe_server, "CONNECTION_SECONDS", 0.3)
    with (
        serving("127.0.0.1:0", Probes(service)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
    ):
        raw.sendall(b"GET /live HTTP/1.1\r\nHost:")

        def drip() -> bool:
            try:
                raw.sendall(b" ")
                raw.settimeout(0.05)
                return raw.recv(1) != b""
            except TimeoutError:
                return True
            except OSError:
                return False

        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(lambda: any(not drip() for _ in range(200))).result()


def test_signals_are_for_those_who_wait_for_them(service: Stub) -> None:
    """One that a thread of the server took would end the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    blocked: list[set[int | signal.Signals]] = []

    def why_not_live() -> None:
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    service.why_not_live = why_not_live  # type: ignore[method-assign]
    with serving("127.0.0.1:0", Probes(service)) as port:
        ask(port, "/live")
    assert {signal.SIGTERM, signal.SIGINT} <= blocked[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_nothing_is_left_after_the_block(service: Stub) -> None:
    """Neither the port nor the thread that listens."""
    with serving("127.0.0.1:0", Probes(service)) as port:
        pass
    assert not [each for each in threading.enumerate() if each.name == "probes"]
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(port, "/live")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("127.0.0.1:9470", ("127.0.0.1", 9470)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65_535)),
    ],
)
def test_an_address_is_a_host_and_a_port(given: str, read: tuple[str, int]) -> None:
    """Of either kind."""
    assert listening_address(given) == read


@pytest.mark.parametrize(
    "given", ["", "9470", ":9470", "127.0.0.1", "::1:9470", "host:99999", "http://host:1", "a b:1"]
)
def test_an_address_that_cannot_be_read_is_named(given: str) -> None:
    """With what to give instead."""
    with pytest.raises(
        ValueError, match=r"is not HOST:PORT: give it as 127\.0\.0\.1:9470"
    ) as error:
        listening_address(given)
    assert repr(given) in str(error.value)


def test_a_port_that_is_taken_is_named(service: Stub, port: int) -> None:
    """And so is what to do."""
    with (
        pytest.raises(
            ValueError, match=f"cannot listen on 127.0.0.1 port {port}: .* give another --http"
        ),
        serving(f"127.0.0.1:{port}", Probes(service)),
    ):
        pass


def test_a_host_without_an_address_is_named(service: Stub) -> None:
    """As it was given."""
    with (
        pytest.raises(ValueError, match=r"cannot listen on nowhere\.invalid port 0: "),
        serving("nowhere.invalid:0", Probes(service)),
    ):
        pass
