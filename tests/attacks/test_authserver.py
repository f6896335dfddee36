"""What a caller of the authserver can do to the others: little, and it is logged."""

import re
import select
import sqlite3
import time
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from xmlrpc.client import Fault, ServerProxy, dumps

import pytest

from mirrorfeed.contract import environment
from mirrorfeed.publisher.authserver.callers import CONNECTIONS_OF_ONE_ADDRESS, counted_address
from mirrorfeed.publisher.authserver.server import HEAD_SECONDS, UNAUTHORISED_SECONDS
from tests.authserver import authserver, connect, log_after_sigterm, shell_of
from tests.spools import spooled

GUESS = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


def refused(log: str, what: str, address: str) -> int:
    """How often, by all lines of the log."""
    line = rf"WARNING refused: {what}, from {re.escape(address)}: (\d+)"
    return sum(int(count) for count in re.findall(line, log))


def test_guessing_the_token_is_slow_and_logged(tmp_path: Path) -> None:
    """A guess costs its connection a second, and nobody else anything."""
    shell = shell_of(tmp_path / "spool.db", **{environment.AUTHSERVER_TOKEN: "s3cret"})
    with authserver(shell) as (url, process):
        with ExitStack() as stack:
            guessers = [stack.enter_context(connect(url, "127.0.0.9")) for _ in range(20)]
            began_at = time.monotonic()
            for guesser in guessers:
                guesser.sendall(GUESS)
            with ServerProxy(f"http://any:s3cret@{url.removeprefix('http://')}") as proxy:
                assert proxy.startMirroring(1) is True
            for guesser in guessers:
                assert b" 401 Unauthorized" in guesser.recv(1000)
            took_seconds = time.monotonic() - began_at
        assert UNAUTHORISED_SECONDS <= took_seconds < 20 * UNAUTHORISED_SECONDS
        log = log_after_sigterm(process)
    assert refused(log, "401, a wrong token or none", "127.0.0.9") == 20
    assert "127.0.0.1: " not in log


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, True),
        ({}, True),
    ],
)
def test_no_web_page_can_report(tmp_path: Path, headers: dict[str, str], is_taken: bool) -> None:
    """A browser on this host sends a page's text here without asking, and says for whom."""
    spool = tmp_path / "spool.db"
    body = dumps((1, "forged"), "mirrorFailed")
    with authserver(shell_of(spool)) as (url, process):
        with closing(HTTPConnection(url.removeprefix("http://").strip("/"))) as browser:
            browser.request("POST", "/", body, {"Content-Type": "text/plain", **headers})
            answer = browser.getresponse()
            assert answer.status == (200 if is_taken else 403)
            assert is_taken or b"a web page may not call" in answer.read()
        log = log_after_sigterm(process)
    assert bool(spooled(spool)) is is_taken
    assert refused(log, "403, a web page's request", "127.0.0.1") == (0 if is_taken else 1)


def test_one_address_cannot_take_all_connections(tmp_path: Path) -> None:
    """Those beyond its share are closed at once, and callers from elsewhere are served."""
    beyond = 40
    with authserver(shell_of(tmp_path / "spool.db")) as (url, process):
        with ExitStack() as stack:
            held = [
                stack.enter_context(connect(url, "127.0.0.9"))
                for _ in range(CONNECTIONS_OF_ONE_ADDRESS + beyond)
            ]
            for connection in held[CONNECTIONS_OF_ONE_ADDRESS:]:
                assert connection.recv(1) == b""
            assert not select.select(held[:CONNECTIONS_OF_ONE_ADDRESS], [], [], 0)[0]
            with ServerProxy(url) as proxy:
                assert proxy.startMirroring(1) is True
        log = log_after_sigterm(process)
    assert refused(log, "connections beyond 128", "127.0.0.9") == beyond


def test_who_never_takes_an_answer_is_left(tmp_path: Path) -> None:
    """However many are wanted at once."""
    asked = 1000 * b"GET /-/metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        authserver(shell_of(tmp_path / "spool.db")) as (url, _),
        connect(url, "127.0.0.9") as caller,
    ):
        caller.settimeout(1)
        with suppress(TimeoutError):
            while True:
                caller.send(asked)
        gone = select.poll()
        gone.register(caller, select.POLLHUP)
        assert gone.poll(1000 * 6 * HEAD_SECONDS)


def test_an_ipv6_network_counts_as_one_address() -> None:
    """Whoever has one of its addresses usually has them all."""
    assert counted_address("2001:db8::1") == counted_address("2001:db8::ffff:1") == "2001:db8::/64"
    assert counted_address("fe80::1%eth0") == "fe80::/64"
    assert counted_address("192.0.2.1") == "192.0.2.1"


def test_faults_tell_no_path_of_the_host(tmp_path: Path) -> None:
    """The log names the spool; a caller learns only what is wrong."""
    spool = tmp_path / "spool.db"
    with authserver(shell_of(spool)) as (url, process):
        with ServerProxy(url) as proxy:
            with pytest.raises(Fault) as not_started:
                proxy.mirrorComplete(1, "rev-1")
            with closing(sqlite3.connect(spool)) as vandal:
                vandal.execute("DROP TABLE attempt")
            with pytest.raises(Fault) as broken:
                proxy.startMirroring(1)
        log = log_after_sigterm(process)
    assert not_started.value.faultString == (
        "mirrorComplete: branch 1 has no attempt under way: report its start when its mirroring"
        " begins"
    )
    assert broken.value.faultString == (
        "startMirroring: the spool cannot be used: see the log of the authserver"
    )
    assert f"startMirroring was not taken: the spool {spool} cannot be used: no such table" in log
