"""One run of one contestant: drain a backlog, count wrong rows, take events at an even pace."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from subprocess import TimeoutExpired
from uuid import uuid4

import psutil

from benchmarks.bare import drain_raw, take_raw
from benchmarks.callers import REVISION
from benchmarks.harness import quantile
from benchmarks.latency import delays_of, notifying
from benchmarks.load import BRANCHES, REASON, Publication, publication, publications, publish
from benchmarks.peers.contestants import OTHERS, OURS, Contestant
from benchmarks.peers.processes import Meter, family_of, megabytes
from benchmarks.stand import Process, Stand, watch
from benchmarks.worker import have_ended, kept, last_outcomes
from mirrorfeed.consumer.apply.projection import PROJECT_BRANCHES
from mirrorfeed.consumer.database import open_engine
from tests.builders import completed, failed, started

MEMORY_SECONDS = 0.5
"""How often memory is sampled: a shorter peak may be missed."""
STOP_SECONDS = 20
CALLS_PER_SECOND = 200
QUICK_BRANCHES = 500
STARTERS = range(BRANCHES - 50, BRANCHES)
"""Branches whose events show that the consumer is running."""
WARM_UP = 200
"""Events before those that count, until everything is connected and its code is loaded."""
COUNTED = 1000
Numbers = dict[str, float]
"""The results, by the columns below."""
LIMITS: dict[str, Callable[[Stand, int], float]] = {
    "limit: pika takes and acks": take_raw,
    "limit: … and COPY of the bodies": drain_raw,
}
RATE = "events/s"
CPU = ("consumer, µs", "broker, µs", "database, µs")
TOGETHER = "together, µs"
MEMORY = "memory, MB"
P50, P99 = "p50, ms", "p99, ms"
WRONG_ROWS = f"wrong rows of {QUICK_BRANCHES}"


def run_limit(stand: Stand, name: str) -> Numbers:
    """In this process."""
    sys.stderr.write(f"{name} ...\n")
    batch = stand.backlog(OURS.backlog)
    meter = Meter(stand, os.getpid())
    seconds = LIMITS[name](stand, len(batch))
    return _drained(len(batch), seconds, meter)


def run_contestant(stand: Stand, contestant: Contestant) -> Numbers:
    sys.stderr.write(f"{contestant.name} ...\n")
    values = {**_drain(stand, contestant), WRONG_ROWS: _wrong_rows(stand, contestant)}
    with notifying(stand):
        delays = _delays(stand, contestant)
    return {**values, P50: quantile(delays, 50), P99: quantile(delays, 99)}


def _drained(events: int, seconds: float, meter: Meter) -> Numbers:
    used = meter.read(events)
    return {RATE: events / seconds, **dict(zip(CPU, used, strict=True)), TOGETHER: sum(used)}


def _drain(stand: Stand, contestant: Contestant) -> Numbers:
    """Measured from the first row seen committed until all of them are."""
    batch = publications(contestant.backlog)
    last = last_outcomes(batch)
    with _consuming(stand, contestant, batch) as consumer:
        watch(consumer, lambda: _committed(stand) > 0)
        meter = Meter(stand, consumer.pid)
        began_at = time.perf_counter()
        remaining = len(batch) - _committed(stand)

        def is_done() -> bool:
            return have_ended(stand, last) and _committed(stand) == len(batch)

        peak = watch(consumer, is_done, megabytes, MEMORY_SECONDS)
        seconds = time.perf_counter() - began_at
        return {**_drained(remaining, seconds, meter), MEMORY: peak}


def _wrong_rows(stand: Stand, contestant: Contestant) -> int:
    """QUICK_BRANCHES branches are each mirrored and then fail, with their four events side by side.
    Returns how many end with a row that the worker's own statement would change."""
    batch = _mirrored(range(1, QUICK_BRANCHES + 1), and_failed=True)
    with _consuming(stand, contestant, batch) as consumer:
        watch(consumer, lambda: _committed(stand) == len(batch))
    engine = open_engine(stand.database_url)
    with engine.connect() as connection:
        branch_ids = list(range(1, BRANCHES + 1))
        corrected = connection.execute(PROJECT_BRANCHES, {"branch_ids": branch_ids}).rowcount
        connection.rollback()
    engine.dispose()
    return corrected


def _delays(stand: Stand, contestant: Contestant) -> list[float]:
    """For each event that counts, the milliseconds from when its publication was due until it was
    seen committed."""
    starters = _mirrored(STARTERS)
    branch_ids = range(1, (WARM_UP + COUNTED) // 2 + 1)
    if contestant.module is None:
        spool = stand.folder / f"{uuid4()}.db"
        caller = stand.calling(
            "puller", spool, CALLS_PER_SECOND, 2 * len(branch_ids), branch_ids[0]
        )
    else:
        batch = _mirrored(branch_ids)
        caller = stand.calling("peer", contestant.module, _file(stand, batch), CALLS_PER_SECOND)
    with _consuming(stand, contestant, starters) as consumer:
        watch(consumer, lambda: _committed(stand) == len(starters))
        return delays_of(stand, caller, WARM_UP, COUNTED)


def _file(stand: Stand, batch: Sequence[Publication]) -> str:
    file = stand.folder / f"{uuid4()}.jsonl"
    file.write_bytes(b"\n".join(each.body for each in batch))
    return str(file)


def _committed(stand: Stand) -> int:
    events, _ = kept(stand)
    return events


def _mirrored(branch_ids: range, and_failed: bool = False) -> list[Publication]:
    """Each branch in turn is mirrored, and then fails."""
    return [
        publication(each)
        for branch_id in branch_ids
        for each in (
            *(started(branch_id, 0), completed(branch_id, 0, REVISION)),
            *((started(branch_id, 2), failed(branch_id, 2, REASON)) if and_failed else ()),
        )
    ]


@contextmanager
def _consuming(
    stand: Stand, contestant: Contestant, batch: Sequence[Publication]
) -> Iterator[Process]:
    """Consumes the events published before. Leaves no process behind, whatever happens."""
    stand.clear()
    forget_peers(stand)
    if contestant.module is None or not contestant.queues:
        publish(stand.amqp_url, batch)
    else:
        with stand.calling("peer", contestant.module, _file(stand, batch)) as publisher:
            publisher.wait()
    process = stand.start(*contestant.command)
    try:
        yield process
    finally:
        family = family_of(psutil.Process(process.pid))
        process.terminate()
        with suppress(TimeoutExpired):
            process.wait(STOP_SECONDS)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        _, log = process.communicate()
        if error := sys.exception():
            error.add_note(f"{contestant.name} logged:\n{log}")
    if process.returncode:
        raise RuntimeError(f"{contestant.name} ended with {process.returncode}:\n{log}")


def forget_peers(stand: Stand) -> None:
    """Deletes everything that the contestants declared."""
    with stand.channel() as channel:
        for other in OTHERS:
            for queue in other.queues:
                channel.queue_delete(queue)
            for exchange in other.exchanges:
                channel.exchange_delete(exchange)
