"""How fast a worker drains a backlog, beside the limit and beside one transaction a message."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime

from psycopg2.extensions import cursor as Cursor

from benchmarks.baselines import drain_one_by_one, drain_raw
from benchmarks.load import Publication, publications, publish
from benchmarks.report import Row, Target
from benchmarks.stand import PARTITIONS, Stand, await_work, wait_for_log
from mirrorfeed.contract import routing
from mirrorfeed.contract.events import MirrorCompleted, MirrorFailed, ScriptRun
from sandbox import wait_until

SUBJECT = "worker, draining a backlog"
EVENTS = 60_000
EVENTS_ONE_BY_ONE = 1500
ROUNDS = 3
WORKER = ("mirror-consumer", "run", "--drain")
PATIENCE_SECONDS = 60.0


def measure(stand: Stand) -> list[Row]:
    limit: list[float] = []
    ours: list[float] = []
    naive: list[float] = []
    for _ in range(ROUNDS):
        batch = backlog(stand, EVENTS)
        limit.append(len(batch) / drain_raw(stand, len(batch)))
        batch = backlog(stand, EVENTS)
        ours.append(len(batch) / drain_by_worker(stand, batch))
        batch = backlog(stand, EVENTS_ONE_BY_ONE)
        naive.append(len(batch) / drain_one_by_one(stand, len(batch)))
    limit_row = Row(SUBJECT, "limit: pika loop, COPY of the bodies", "events/s", limit)
    naive_row = Row(SUBJECT, "naive: SQLAlchemy, a transaction each", "events/s", naive)
    what = "mirror-consumer run --drain"
    return [
        limit_row,
        naive_row,
        Row(SUBJECT, what, "events/s", ours, limit_row, [Target("≥", 0.6)]),
        Row(SUBJECT, what, "events/s", ours, naive_row, [Target("≥", 25)]),
    ]


def backlog(stand: Stand, count: int) -> list[Publication]:
    stand.clear()
    batch = publications(count)
    publish(stand.amqp_url, batch)
    return batch


def drain_by_worker(
    stand: Stand,
    batch: Sequence[Publication],
    command: Sequence[str] = WORKER,
    is_refused: Callable[[int], bool] = lambda branch_id: False,
) -> float:
    """Seconds from when it says that it consumes until the last event of each queue is committed.

    So neither the interpreter's start counts nor how a drain makes sure that it is at its end.
    Every event of a branch that `is_refused` must end as a letter.
    """
    last = last_outcomes(batch, is_refused)
    before = _runs_and_letters(stand)
    with (
        stand.running(*command) as worker,
        closing(stand.connect()) as connection,
        connection.cursor() as cursor,
    ):
        wait_for_log(worker, "consuming")
        began_at = time.perf_counter()
        await_work(worker, lambda: have_ended(cursor, last))
        seconds = time.perf_counter() - began_at
        worker.wait()
        _check(stand, batch, is_refused, before)
    return seconds


def await_outcomes(stand: Stand, last: tuple[tuple[object, object], ...]) -> None:
    """Waits until these are committed, by whatever workers there are."""
    with closing(stand.connect()) as connection, connection.cursor() as cursor:
        wait_until(lambda: have_ended(cursor, last), PATIENCE_SECONDS, "the last events")


def have_ended(cursor: Cursor, attempts: tuple[tuple[object, object], ...]) -> bool:
    """Whether the outcomes of these attempts are committed."""
    cursor.execute(
        "SELECT count(*) FROM mirror_attempt"
        " WHERE (branch_id, started_at) IN %s AND outcome IS NOT NULL",
        (attempts,),
    )
    return cursor.fetchone() == (len(attempts),)


def last_outcomes(
    batch: Sequence[Publication], is_refused: Callable[[int], bool] = lambda branch_id: False
) -> tuple[tuple[object, object], ...]:
    """Branch and start of the last attempt that ended, one a partition."""
    last: dict[int, tuple[object, object]] = {}
    for publication in batch:
        event = publication.envelope.event
        if isinstance(event, MirrorCompleted | MirrorFailed) and not is_refused(event.branch_id):
            partition = routing.slot_of(event.partition_key) % PARTITIONS
            last[partition] = (event.branch_id, event.started_at)
    return tuple(last.values())


def _check(
    stand: Stand,
    batch: Sequence[Publication],
    is_refused: Callable[[int], bool],
    before: tuple[int, int],
) -> None:
    """A fast worker that loses something is no worker."""
    ended: list[tuple[int, datetime]] = []
    runs, letters = before
    for publication in batch:
        event = publication.envelope.event
        if isinstance(event, ScriptRun):
            runs += 1
        elif is_refused(event.branch_id):
            letters += 1
        elif isinstance(event, MirrorCompleted | MirrorFailed):
            ended.append((event.branch_id, event.started_at))
    with closing(stand.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(outcome) FROM mirror_attempt"
            " JOIN unnest(%s::bigint[], %s::timestamptz[]) AS ended (branch_id, started_at)"
            " USING (branch_id, started_at)",
            tuple(map(list, zip(*ended, strict=True))),
        )
        (found_ended,) = cursor.fetchone() or (0,)
    expected = len(ended), (runs, letters)
    found = found_ended, _runs_and_letters(stand)
    if found != expected:
        raise RuntimeError(f"expected attempts, runs and letters {expected}, found {found}")


def _runs_and_letters(stand: Stand) -> tuple[int, int]:
    with closing(stand.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM script_activity), (SELECT count(*) FROM dead_letter)"
        )
        runs, letters = cursor.fetchone() or (0, 0)
    return runs, letters
