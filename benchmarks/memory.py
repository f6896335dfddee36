"""How much memory a worker takes, whatever waits for it."""

import subprocess
from pathlib import Path

from benchmarks.load import publications, publish
from benchmarks.report import Row, Target
from benchmarks.stand import Stand

SUBJECT = "worker, peak memory while draining"
SMALL = 20_000
LARGE = 200_000
ROUNDS = 2
READ_SECONDS = 0.02
LIMIT_MEGABYTES = 150


def measure(stand: Stand) -> list[Row]:
    small: list[float] = []
    large: list[float] = []
    for _ in range(ROUNDS):
        small.append(_peak_megabytes(stand, SMALL))
        large.append(_peak_megabytes(stand, LARGE))
    limit = Target("≤", LIMIT_MEGABYTES, of_ratio=False)
    small_row = Row(SUBJECT, f"{SMALL:,} events", "MB", small, targets=[limit])
    large_row = Row(SUBJECT, f"{LARGE:,} events", "MB", large, small_row, [limit])
    return [small_row, large_row]


def _peak_megabytes(stand: Stand, count: int) -> float:
    stand.clear()
    publish(stand.amqp_url, publications(count))
    peak = 0.0
    with stand.running("mirror-consumer", "run", "--drain") as worker:
        while worker.poll() is None:
            peak = high_water_mark(worker.pid) or peak
            try:
                worker.wait(READ_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    return peak


def high_water_mark(process: int) -> float | None:
    """The most that was resident so far, in MB of 10^6 bytes; None once the process has ended.

    The kernel keeps the mark, so that nothing between two readings is missed. (`ru_maxrss` would
    not do: a child inherits its parent's.)
    """
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None
