"""How fast many processes append to one spool at once, beside one process and bare commits."""

import json
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.calls import bare_file, body_of
from benchmarks.report import Row, Target, quantile
from benchmarks.stand import Stand
from mirrorfeed.publisher.spool import Spool

SUBJECT = "pullers, one spool"
MANY = 16
CALLS = 4800
"""Of all processes together."""
ROUNDS = 3


def measure(stand: Stand) -> list[Row]:
    bare: list[float] = []
    one: list[float] = []
    many: list[float] = []
    waits: list[float] = []
    longest: list[float] = []
    for number in range(ROUNDS):
        bare.append(1000 * quantile(_bare(stand.folder / f"bare-appends-{number}.db"), 99))
        rate, _ = _append(stand.folder / f"one-{number}.db", 1)
        one.append(rate)
        rate, seconds = _append(stand.folder / f"many-{number}.db", MANY)
        many.append(rate)
        waits.append(1000 * quantile(seconds, 99))
        longest.append(1000 * max(seconds))
    bare_row = Row(SUBJECT, "bare commit, alone, p99", "ms", bare)
    one_row = Row(SUBJECT, "one process", "calls/s", one)
    return [
        bare_row,
        one_row,
        Row(SUBJECT, f"{MANY} processes", "calls/s", many, one_row, [Target("≥", 1)]),
        Row(SUBJECT, f"{MANY} processes, p99 of a call", "ms", waits, bare_row, [Target("≤", 20)]),
        Row(SUBJECT, f"{MANY} processes, longest call", "ms", longest),
    ]


def _bare(path: Path) -> list[float]:
    """The seconds of each commit."""
    seconds: list[float] = []
    with closing(bare_file(path)) as connection:
        body = body_of(f"/pullers/{path.name}/{'0' * 36}")
        for _ in range(CALLS):
            began_at = time.perf_counter()
            connection.execute("INSERT INTO event (body) VALUES (?)", (body,)).close()
            seconds.append(time.perf_counter() - began_at)
    return seconds


def _append(path: Path, processes: int) -> tuple[float, list[float]]:
    """Calls a second, from the first to begin to the last to end, and the seconds of each call."""
    command = (sys.executable, "-m", "benchmarks.appender", str(path), str(CALLS // processes))
    with ExitStack() as stack:
        appenders = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(processes)
        ]
        for appender in appenders:
            assert appender.stdout is not None
            appender.stdout.readline()
        for appender in appenders:
            assert appender.stdin is not None
            appender.stdin.write("\n")
            appender.stdin.flush()
        outputs = [json.loads(appender.communicate()[0]) for appender in appenders]
    with closing(Spool(path)) as spool:
        sequences = [event.sequence for event in spool.pending(after=0, limit=CALLS + 1)]
    if sequences != list(range(1, CALLS + 1)):
        raise RuntimeError(f"of {CALLS} calls {len(sequences)} events are in the spool")
    ends = [output["ended_at"] for output in outputs]
    seconds = max(ends) - min(output["began_at"] for output in outputs)
    return CALLS / seconds, [wait for output in outputs for wait in output["seconds"]]
