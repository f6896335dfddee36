"""A backlog that took hours to grow: whether its last events are drained as fast as its first."""

import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice

from benchmarks.drain import WORKER, have_ended, last_outcomes
from benchmarks.load import history, publication, publish
from benchmarks.memory import high_water_mark
from benchmarks.stand import Stand, await_work, wait_for_log

TENTHS = 10
PUBLISHED_AT_ONCE = 20_000
"""Events that are in this process's memory at a time."""
Marks = tuple[tuple[object, object], ...]
"""The last attempts that ended, one a partition."""


@dataclass(frozen=True)
class Backlog:
    """How it was drained: events a second in each tenth, and the most memory that it took."""

    events: int
    rates: list[float]
    peak_megabytes: float


def drain_backlog(stand: Stand, events: int) -> Backlog:
    stand.clear()
    marks = _publish(stand, events)
    rates: list[float] = []
    peak = 0.0
    with (
        stand.running(*WORKER) as worker,
        closing(stand.connect()) as connection,
        connection.cursor() as cursor,
    ):
        wait_for_log(worker, "consuming")
        began_at = time.perf_counter()
        for mark, count in marks:
            await_work(worker, partial(have_ended, cursor, mark))
            peak = high_water_mark(worker.pid) or peak
            now = time.perf_counter()
            rates.append(count / (now - began_at))
            began_at = now
        worker.wait()
    return Backlog(sum(count for _, count in marks), rates, peak)


def _publish(stand: Stand, events: int) -> list[tuple[Marks, int]]:
    """What ends each tenth of the backlog, and how many events that tenth has."""
    coming = history(events * 100 // 99)  # a script's run is one event where an attempt is two
    marks = []
    for _ in range(TENTHS):
        count = 0
        tenth = islice(coming, events // TENTHS)
        while batch := list(map(publication, islice(tenth, PUBLISHED_AT_ONCE))):
            publish(stand.amqp_url, batch)
            count += len(batch)
            last = batch
        marks.append((last_outcomes(last), count))
    return marks
