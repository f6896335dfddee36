"""The XML-RPC face, called over HTTP as an unmodified puller of the original system calls it."""

import base64
import http.client
import itertools
import json
import select
import signal
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.parsers.expat import ExpatError
from xmlrpc.client import Binary, DateTime, Fault, ServerProxy, dumps, loads

import pytest
import trustme
from sqlalchemy import Engine

from mirrorfeed.contract import environment, wire
from mirrorfeed.contract.events import (
    Envelope,
    Event,
    MirrorCompleted,
    MirrorFailed,
    MirrorStarted,
    ScriptRun,
)
from mirrorfeed.publisher.authserver.condition import Condition
from mirrorfeed.publisher.forward.forwarder import Forwarder
from mirrorfeed.publisher.metrics import cached_account
from mirrorfeed.publisher.spool import Spool
from tests.authserver import (
    NOBODY_LISTENS,
    PATIENCE_SECONDS,
    authserver,
    connect,
    log_after_sigterm,
    shell_of,
    url_of,
)
from tests.commands import Shell
from tests.probes import ask, says
from tests.servers import register_branches, rows, wait_for

TIMES = (2007, 7, 5, 19, 32, 1, 3, 186, 0), (2007, 7, 5, 19, 34, 24, 3, 186, 0)
BEGAN = datetime(2007, 7, 5, 19, 32, 1, tzinfo=UTC)
ENDED = datetime(2007, 7, 5, 19, 34, 24, tzinfo=UTC)
BILLION_LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    + "]><methodCall><methodName>&a9;</methodName><params/></methodCall>"
)
EXTERNAL_ENTITY = (
    '<!DOCTYPE x [<!ENTITY secret SYSTEM "file:///etc/passwd">]><methodCall>'
    "<methodName>&secret;</methodName><params/></methodCall>"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def offline(path: Path) -> Shell:
    """Where no broker is, so that all stays in the spool."""
    return shell_of(path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that gets one bad request after the other, and must survive them all."""
    path = tmp_path_factory.mktemp("shared") / "spool.db"
    with authserver(shell_of(path)) as (url, process):
        yield url
        with ServerProxy(url) as proxy:
            assert proxy.startMirroring(1) is True
        (envelope,) = spooled(path)
        assert isinstance(envelope.event, MirrorStarted)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0
        assert "Traceback" not in log


def spooled(path: Path) -> list[Envelope]:
    with closing(Spool(path)) as spool:
        return [wire.decode(event.body) for event in spool.pending(after=0, limit=1000)]


def events(path: Path) -> list[Event]:
    return [envelope.event for envelope in spooled(path)]


def received(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def answer(connection: socket.socket) -> bytes:
    """The body of one response."""
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        return response.read()


def request(body: bytes, *headers: str, method: str = "POST") -> bytes:
    lines = (f"{method} /any HTTP/1.1", "Host: puller", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def sized(body: bytes) -> bytes:
    return request(body, f"Content-Length: {len(body)}")


def basic(credentials: bytes) -> bytes:
    return b"Basic " + base64.b64encode(credentials)


def fault_of(body: bytes) -> Fault:
    with pytest.raises(Fault) as caught:
        loads(body)
    return caught.value


def posted(url: str, body: bytes) -> Fault:
    """The fault that answers the body."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_SECONDS)) as client:
        client.request("POST", "/", body)
        answer = client.getresponse()
        assert answer.status == 200
        assert answer.getheader("Content-Type") == "text/xml"
        return fault_of(answer.read())


def test_an_unmodified_puller_reports(offline: Shell, path: Path) -> None:
    """Every method of the original, at the path that the puller was told, answers True."""
    with authserver(offline) as (url, _), ServerProxy(url + "branch/?a=b") as proxy:
        assert proxy.startMirroring(1) is True
        assert proxy.mirrorComplete(1, "rev-größe") is True
        assert proxy.startMirroring(1) is True
        assert proxy.mirrorFailed(1, "cannot read https://jane:s3cret@host/") is True
        assert proxy.mirrorFailed(1, "x" * 20_000) is True
        assert proxy.recordSuccess("branch-puller", "vostok", *TIMES) is True
    first, completed, second, failed, failed_as_it_began, run = events(path)
    assert isinstance(first, MirrorStarted)
    assert completed == MirrorCompleted(1, first.started_at, "rev-größe")
    assert isinstance(second, MirrorStarted)
    assert failed == MirrorFailed(1, second.started_at, "cannot read https://***@host/")
    assert isinstance(failed_as_it_began, MirrorFailed)
    assert failed_as_it_began.reason == "x" * 8192
    assert run == ScriptRun("branch-puller", "vostok", BEGAN, ENDED)


def test_whatever_a_reason_holds_the_failure_is_taken(offline: Shell, path: Path) -> None:
    """Python's client sends control characters as they are, which XML cannot hold; a careful puller
    sends a Binary instead."""
    with authserver(offline) as (url, _):
        for encoding in (None, "iso-8859-1", "utf-16"):
            with ServerProxy(url, encoding=encoding) as proxy:
                assert proxy.mirrorFailed(1, "\x1b[31mgröße\0\ud800\ufffe") is True
        with ServerProxy(url) as proxy:
            assert proxy.mirrorFailed(1, Binary("größe\0\xff".encode("latin-1"))) is True
    reasons = [event.reason for event in events(path) if isinstance(event, MirrorFailed)]
    assert reasons == ["\ufffd[31mgröße\ufffd\ufffd\ufffd"] * 3 + ["gr\ufffd\ufffde\ufffd"]


def test_a_script_whose_clock_was_set_back_ended_when_it_began(offline: Shell, path: Path) -> None:
    """As `run-script` reports it, but with a warning: here the times are a caller's."""
    with authserver(offline) as (url, process):
        with ServerProxy(url) as proxy:
            assert proxy.recordSuccess("gc", "vostok", *TIMES[::-1]) is True
        log = log_after_sigterm(process)
    assert "WARNING recordSuccess: 'gc' on 'vostok' ended 0:02:23 before it began" in log
    assert events(path) == [ScriptRun("gc", "vostok", ENDED, ENDED)]


def test_times_may_be_of_xml_rpcs_own_type(offline: Shell, path: Path) -> None:
    """They are UTC unless they say otherwise."""
    with authserver(offline) as (url, _), ServerProxy(url) as proxy:
        started = DateTime("20070705T19:32:01"), DateTime("2007-07-05T21:32:01+02:00")
        for time in started:
            assert proxy.recordSuccess("puller", "vostok", time, DateTime("20070705T19:34:24Z"))
    assert events(path) == [ScriptRun("puller", "vostok", BEGAN, ENDED)] * 2


def test_a_call_becomes_a_branch_row(shell: Shell, engine: Engine) -> None:
    """The server itself sends what it took."""
    register_branches(engine, 1)
    with authserver(shell) as (url, _), ServerProxy(url) as proxy:
        proxy.startMirroring(1)
        proxy.mirrorComplete(1, "rev-1")
        proxy.recordSuccess("puller", "vostok", *TIMES)

        def is_sent() -> bool:
            status = json.loads(shell.run("mirror-publisher", "status", "--json").stdout)
            return bool(status["confirmed"] == 3)

        wait_for(is_sent, "the broker")
    shell.run("mirror-consumer", "run", "--drain")
    assert rows(engine, "SELECT id, last_mirrored_id FROM branch") == [(1, "rev-1")]
    assert rows(engine, "SELECT name, hostname FROM script_activity") == [("puller", "vostok")]


def test_the_server_tells_what_it_can_do(shared: str) -> None:
    """It answers the usual introspection calls."""
    with ServerProxy(shared) as proxy:
        assert proxy.system.listMethods() == [
            "mirrorComplete", "mirrorFailed", "recordSuccess", "startMirroring",
            "system.listMethods", "system.methodHelp",
        ]  # fmt: skip
        help_text = proxy.system.methodHelp("recordSuccess")
    assert isinstance(help_text, str)
    assert help_text.startswith("recordSuccess(name, hostname, started, completed): A script ran")


@pytest.mark.parametrize(
    ("method", "values", "code", "says"),
    [
        ("startMirroring", ("1",), -32602, "startMirroring: id must be an int, got the string '1'"),
        ("startMirroring", (True,), -32602, "id must be an int, got the boolean True"),
        ("startMirroring", (None,), -32602, "id must be an int, got nil"),
        ("startMirroring", ([1],), -32602, "id must be an int, got an array of 1"),
        ("startMirroring", (0,), -32602, "branch_id must be a whole number from 1 to"),
        ("startMirroring", (), -32602, "startMirroring(id) takes 1 parameters, got 0"),
        ("mirrorComplete", (1, 5), -32602, "revision must be a string, got int 5"),
        ("mirrorComplete", (99, "r"), -32500, "branch 99 has no attempt under way"),
        ("mirrorFailed", (1, 5), -32602, "reason must be a string, got int 5"),
        ("mirrorComplete", (1, Binary(b"x")), -32602, "revision must be a string, got base64 of 1"),
        ("recordSuccess", ("", "h", *TIMES), -32602, "name must not be empty"),
        ("recordSuccess", ("n", "h", TIMES[0][:6], BEGAN), -32602, "started must be a dateTime or"),
        ("recordSuccess", ("n", "h", BEGAN, "2007"), -32602, "completed must be a dateTime or an"),
        ("recordSuccess", ("n", "h", (2007, 13, *range(7)), BEGAN), -32602, "a time that exists"),
        ("recordSuccess", ("n", "h", (2**31 - 1,) * 9, BEGAN), -32602, "a time that exists"),
        ("recordSuccess", ("n", "h", DateTime("today"), BEGAN), -32602, "got the dateTime 'today'"),
        ("system.methodHelp", ("x",), -32601, "there is no method 'x'"),
        ("stopMirroring", (1,), -32601, "no method 'stopMirroring': the methods are start"),
    ],
)  # fmt: skip
def test_a_wrong_call_gets_a_fault(
    shared: str, method: str, values: tuple[Any, ...], code: int, says: str
) -> None:
    """The fault names the parameter, what it must be and what it was."""
    with ServerProxy(shared, allow_none=True) as proxy, pytest.raises(Fault) as caught:
        getattr(proxy, method)(*values)
    assert caught.value.faultCode == code
    assert says in caught.value.faultString


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"", -32700, "not well-formed"),
        (b"\xff\xfe\x00", -32700, "not well-formed"),
        (b"<methodCall><methodName>startMirroring", -32700, "not well-formed"),
        (b"<html/>", -32600, "not an XML-RPC call"),
        (dumps((1,), methodresponse=True).encode(), -32600, "it has no method"),
        (dumps(("x",), "startMirroring").replace("string", "int").encode(), -32600, "'x'"),
        (dumps((1,), "startMirroring").replace("1<", "9" * 5000 + "<").encode(), -32600, "not an"),
        (b"<methodCall><methodName>startMirroring</methodName><params><param>"
         + b"<value><array><data>" * 20_000 + b"</data></array></value>" * 20_000
         + b"</param></params></methodCall>", -32602, "id must be an int, got an array of 1"),
        (BILLION_LAUGHS.encode(), -32600, "a document type declaration"),
        (EXTERNAL_ENTITY.encode(), -32600, "a document type declaration"),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_body_gets_a_fault(shared: str, body: bytes, code: int, says: str) -> None:
    """It does not matter whether the body is malformed, bogus or malicious."""
    fault = posted(shared, body)
    assert fault.faultCode == code
    assert says in fault.faultString


def test_a_body_of_2_mb_gets_a_fault(shared: str) -> None:
    """The client can read the fault after sending everything, and the connection stays usable."""
    with ServerProxy(shared) as proxy:
        for _ in range(2):
            with pytest.raises(Fault, match=r"2000\d{3} bytes or more: send at most 1048576"):
                proxy.mirrorFailed(1, "x" * 2_000_000)
        assert proxy.system.listMethods()


def test_a_body_without_a_length_is_counted(shared: str) -> None:
    """A chunked body is read up to the limit and no further."""
    call = dumps((), "system.listMethods").encode()
    endless = [b"x" * 65536] * 17
    with closing(http.client.HTTPConnection(urlsplit(shared).netloc)) as client:
        client.request("POST", "/", iter([call[:9], call[9:]]), encode_chunked=True)
        assert b"startMirroring" in client.getresponse().read()
        client.request("POST", "/", iter(endless), encode_chunked=True)
        assert "send at most 1048576" in fault_of(client.getresponse().read()).faultString


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"", "Connection: close", method="GET"), b"405 Method Not Allowed"),
        (request(b"", "Connection: close", method="HEAD"), b"405 Method Not Allowed"),
        (request(b"hello", "Content-Length: 5", "Content-Length: 6"), b"400 Bad Request"),
        (request(b"hello", "Content-Length: -5"), b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400 Bad Request"),
        (b"POST /\r\n\r\n", b"400 Bad Request"),
        (b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, b"400 Bad Request"),
    ],
    ids=["GET", "HEAD", "two lengths", "a length below 0", "TLS", "no version", "endless head"],
)
def test_what_is_no_post_is_refused(shared: str, sent: bytes, status: bytes) -> None:
    """The answer is an HTTP error status."""
    with connect(shared) as connection:
        with suppress(ConnectionError):  # refused before all was sent
            connection.sendall(sent)
        assert connection.recv(1000).startswith(b"HTTP/1.1 " + status)


def test_slow_clients_keep_nobody_waiting_and_are_left(shared: str) -> None:
    """In the end half a body gets a fault; half a head or silence gets a closed connection."""
    half = sized(dumps((1,), "startMirroring").encode())[:-20]
    with connect(shared) as slow, connect(shared) as slower, connect(shared) as silent:
        slow.sendall(half)
        slower.sendall(half[:20])
        with ServerProxy(shared) as proxy:
            assert proxy.system.listMethods()
        assert "the request was not complete after 5 s" in fault_of(answer(slow)).faultString
        assert received(slower) == received(silent) == b""


def test_50_clients_are_served_at_once(offline: Shell, path: Path) -> None:
    """Each call is one event, though 50 more clients are connected and say nothing."""

    def mirror(url: str, branch_id: int) -> None:
        with ServerProxy(url) as proxy:
            assert proxy.startMirroring(branch_id) is True
            assert proxy.mirrorComplete(branch_id, "rev-1") is True

    with authserver(offline) as (url, _), ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(url))
        with ThreadPoolExecutor(50) as threads:
            for ended in [threads.submit(mirror, url, number) for number in range(1, 51)]:
                ended.result(PATIENCE_SECONDS)
    taken = events(path)
    assert len(taken) == 100
    for number in range(1, 51):
        start, end = [event for event in taken if event.subject == str(number)]
        assert isinstance(start, MirrorStarted)
        assert end == MirrorCompleted(number, start.started_at, "rev-1")


def test_the_token_is_asked_for(path: Path) -> None:
    """A wrong, missing or garbled token gets a 401, and no token appears in the log."""
    shell = shell_of(path, **{environment.AUTHSERVER_TOKEN: "s3cret/ü"})
    with authserver(shell) as (url, process):
        place = url.removeprefix("http://")
        with ServerProxy(f"http://puller:s3cret%2F%C3%BC@{place}") as proxy:
            assert proxy.startMirroring(1) is True
        wrong = [basic(b"puller:wrong"), basic("s3cret/ü".encode()), b"Basic %", None]
        with ExitStack() as stack:
            connections = [stack.enter_context(connect(url)) for _ in wrong]
            for connection, credentials in zip(connections, wrong, strict=True):
                headers = [] if credentials is None else [f"Authorization: {credentials.decode()}"]
                connection.sendall(request(b"", *headers, "Content-Length: 0"))
            for connection in connections:
                assert b" 401 Unauthorized" in connection.recv(1000)
        assert "s3cret" not in log_after_sigterm(process)
    assert len(spooled(path)) == 1


def test_tls_is_spoken(offline: Shell, path: Path, tmp_path: Path) -> None:
    """A client that does not speak TLS harms nobody else."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    options = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    with authserver(offline, *options) as (url, _):
        assert url.startswith("https://")
        with connect(url) as plain, connect(url):  # the latter says nothing
            plain.sendall(sized(b""))
            with ServerProxy(url, context=trusting) as proxy:
                assert proxy.startMirroring(1) is True
                with pytest.raises(Fault, match="send at most"):
                    proxy.mirrorFailed(1, "x" * 2_000_000)
    assert len(spooled(path)) == 1


def test_a_full_spool_gets_a_fault(offline: Shell, path: Path) -> None:
    """It says so, the log says what to do, and the spool holds exactly what was answered with
    True."""
    taken = 0
    limit = ("--spool-limit-bytes", str(1024**2))
    with authserver(offline, *limit) as (url, process):
        with ServerProxy(url) as proxy:
            while (fault := fault_or_none(proxy)) is None:
                taken += 1
        log = log_after_sigterm(process)
    assert fault.faultCode == -32400
    assert fault.faultString == ("mirrorFailed: the spool is full: see the log of the authserver")
    assert f"spool {path} is full, its limit is 1048576 bytes: make sure that a forwarder" in log
    assert len(spooled(path)) == taken > 10


def fault_or_none(proxy: ServerProxy) -> Fault | None:
    try:
        assert proxy.mirrorFailed(1, "x" * 8192) is True
    except Fault as fault:
        return fault
    return None


def test_sigterm_finishes_what_is_in_hand(offline: Shell, path: Path) -> None:
    """A half-sent request is still answered, a stuck one is dropped after 5 s, and no new
    connection is accepted."""
    sent = sized(dumps((1,), "startMirroring").encode())
    with authserver(offline) as (url, process), connect(url) as busy, connect(url) as stuck:
        idle = connect(url)
        for connection in (busy, stuck):
            connection.sendall(sent[:-20])
        with ServerProxy(url) as proxy:  # so the others have been read
            assert proxy.system.listMethods()
        process.send_signal(signal.SIGTERM)
        with idle:
            assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(url)
        busy.sendall(sent[-20:])
        assert b"<boolean>1</boolean>" in received(busy)
        assert b"not complete after 5 s" in received(stuck)
        assert process.wait(PATIENCE_SECONDS) == 0
    assert len(spooled(path)) == 1


def test_what_was_answered_with_true_outlives_a_sigkill(offline: Shell, path: Path) -> None:
    """That includes calls that shared a commit."""
    answered: list[int] = []

    def call_for_ever(url: str, first: int) -> None:
        cut_off = (OSError, http.client.HTTPException, ExpatError)  # even in its answer
        with ServerProxy(url) as proxy, suppress(*cut_off):
            for number in itertools.count(first, 8):
                assert proxy.startMirroring(number) is True
                answered.append(number)

    process = offline.start("mirror-publisher", "authserver", "--port", "0")
    with ThreadPoolExecutor(8) as threads:
        url = url_of(process)
        calling = [threads.submit(call_for_ever, url, first) for first in range(1, 9)]
        wait_for(lambda: len(answered) > 200, "answers")
        process.kill()
        process.communicate()
        for ended in calling:
            ended.result()
    started = {event.branch_id for event in events(path) if isinstance(event, MirrorStarted)}
    assert started >= set(answered)


def test_a_locked_spool_keeps_only_those_waiting_who_need_it(offline: Shell, path: Path) -> None:
    """A waiting call gets True when the spool is free again; other calls are answered meanwhile."""
    with authserver(offline) as (url, _), connect(url) as waiting:
        with closing(Spool(path)) as other, other.writing():
            waiting.sendall(sized(dumps((1,), "startMirroring").encode()))
            with ServerProxy(url) as proxy:
                assert proxy.system.methodHelp("startMirroring")
            assert not select.select([waiting], [], [], 0)[0]
        assert b"<boolean>1</boolean>" in answer(waiting)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--port", "{busy}"), "cannot listen on 127.0.0.1 port"),
        (("--host", "192.0.2.1", "--insecure"), "cannot listen on 192.0.2.1 port 8999"),
        (("--host", "0.0.0.0"), "with --host 0.0.0.0 other hosts could report anything"),
        (("--host", "::"), "or give --insecure if that network can be trusted"),
        (("--tls-key", "{file}"), "--tls-key needs a certificate"),
        (("--tls-certificate", "{file}"), "cannot use the certificate"),
        (("--token", ""), "the token is empty: set MIRRORFEED_AUTHSERVER_TOKEN to one"),
        (("--amqp-url", "http://x"), "the AMQP URL cannot be read"),
    ],
)
def test_bad_usage_exits_2(
    offline: Shell, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    """The message names the value and the remedy."""
    file = tmp_path / "empty"
    file.touch()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        values = [option.format(file=file, busy=port) for option in options]
        result = offline.run("mirror-publisher", "authserver", *values, expect=2)
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_it_says_how_it_is(tmp_path: Path) -> None:
    """It is ready without a broker: calls are taken. Metrics are for those who have the token."""
    shell = shell_of(tmp_path / "spool.db", **{environment.AUTHSERVER_TOKEN: "secret"})
    with authserver(shell) as (url, _):
        port = urlsplit(url).port
        assert port
        wait_for(lambda: says(port, "/-/ready") == 200, "the authserver")
        assert ask(port, "/-/live")[:2] == (200, "live\n")
        assert ask(port, "/-/metrics").status == 401
        given = base64.b64encode(b"any:secret").decode()
        said = ask(port, "/-/metrics", headers={"Authorization": f"Basic {given}"})
        assert "\nmirrorfeed_forwarder_connected 0.0\n" in said.text
        assert ask(port, "/live").status == 405


def test_it_is_not_ready_without_its_spool(tmp_path: Path) -> None:
    """And tells callers no path."""
    condition = Condition(
        Forwarder(tmp_path / "spool.db", NOBODY_LISTENS),
        cached_account(tmp_path / "spool.db", 1024**2),
    )
    assert condition.why_not_live() is None
    assert condition.why_not_ready() == "its spool cannot be read: its log says why"
