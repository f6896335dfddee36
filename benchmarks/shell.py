"""How long a shell waits for the command that reports one event."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, Target, quantile
from benchmarks.stand import Stand

SUBJECT = "mirror-publisher, from a shell"
RUNS = 20
ROUNDS = 3
LIMIT_MILLISECONDS = 150


def measure(stand: Stand) -> list[Row]:
    python = (sys.executable, "-c", "pass")
    command = str(Path(sys.executable).with_name("mirror-publisher"))
    spool = str(stand.folder / "shell.db")
    report = (command, "started", "1", "--spool", spool)
    bare: list[float] = []
    ours: list[float] = []
    for _ in range(ROUNDS):
        seconds: dict[Sequence[str], list[float]] = {python: [], report: []}
        for _ in range(RUNS):
            for arguments, durations in seconds.items():
                durations.append(_run(arguments))
        bare.append(1000 * quantile(seconds[python], 50))
        ours.append(1000 * quantile(seconds[report], 50))
    limit = Target("≤", LIMIT_MILLISECONDS, of_ratio=False)
    bare_row = Row(SUBJECT, "python -c pass", "ms", bare)
    return [bare_row, Row(SUBJECT, "mirror-publisher started", "ms", ours, bare_row, [limit])]


def _run(arguments: Sequence[str]) -> float:
    began_at = time.perf_counter()
    subprocess.run(arguments, check=True)
    return time.perf_counter() - began_at
