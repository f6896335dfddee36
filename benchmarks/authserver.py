"""How many calls a second the authserver answers, beside servers that only answer True."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from benchmarks.report import Row, Target
from benchmarks.stand import Stand
from mirrorfeed.publisher.spool import Spool
from sandbox import wait_until

SUBJECT = "authserver, 8 connections"
CALLS = 4000
WARM_UP = 400
ROUNDS = 5
PATIENCE_SECONDS = 60.0
NOBODY_LISTENS = "amqp://guest:guest@127.0.0.1:1/%2F"
BARE = "bare: the same server, answers True"
THREADED = "the standard library's, threaded, answers True"
UP = "mirror-publisher authserver, broker up"
DOWN = "mirror-publisher authserver, broker down"


def measure(stand: Stand) -> list[Row]:
    """The servers run all the time; their turns alternate."""
    stand.clear()
    spools = {UP: stand.folder / "authserver-up.db", DOWN: stand.folder / "authserver-down.db"}
    commands = {
        BARE: ("python", "-m", "benchmarks.bare_xmlrpc", "uvicorn"),
        THREADED: ("python", "-m", "benchmarks.bare_xmlrpc", "threaded"),
        UP: _authserver(spools[UP], stand.amqp_url),
        DOWN: _authserver(spools[DOWN], NOBODY_LISTENS),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in commands}
    with ExitStack() as stack:
        ports = {
            kind: stack.enter_context(_listening(stand, *command))
            for kind, command in commands.items()
        }
        view = stack.enter_context(closing(Spool(spools[UP])))

        def all_sent() -> bool:
            return not view.pending(after=0, limit=1)

        for port in ports.values():
            _rate(port, WARM_UP)
        for _ in range(ROUNDS):
            for kind, port in ports.items():
                rates[kind].append(_rate(port, CALLS))
                # What is left to send shall not slow the next one down.
                wait_until(all_sent, PATIENCE_SECONDS, "the authserver to send what it took")
        for spool in spools.values():
            _check_count(spool, WARM_UP + ROUNDS * CALLS)
    bare, threaded = (Row(SUBJECT, kind, "calls/s", rates[kind]) for kind in (BARE, THREADED))
    targets = [Target("≥", 0.5)]
    ours = [Row(SUBJECT, kind, "calls/s", rates[kind], bare, targets) for kind in spools]
    return [bare, threaded, *ours]


def _authserver(spool: Path, amqp_url: str) -> tuple[str, ...]:
    options = ("--port", "0", "--spool", str(spool), "--amqp-url", amqp_url)
    return ("mirror-publisher", "authserver", *options)


@contextmanager
def _listening(stand: Stand, *command: str) -> Iterator[int]:
    """The port on which the command says that it listens."""
    with stand.running(*command) as process:
        yield _port_of(process)


def _port_of(process: "subprocess.Popen[str]") -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"listens on http://127\.0\.0\.1:(\d+)/", line):
            return int(found[1])
    raise RuntimeError("a server ended before it listened")


def _check_count(spool: Path, calls: int) -> None:
    with closing(Spool(spool)) as view:
        spooled = view.status().spooled
    if spooled != calls:
        raise RuntimeError(f"{calls} calls were answered with True, but {spooled} spooled")


def _rate(port: int, calls: int) -> float:
    """Calls a second, as the callers count them, in a process of their own."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.xmlrpc_callers", str(port), str(calls)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout)
