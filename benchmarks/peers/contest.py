"""One run of one contestant: a backlog drained, or events at an even pace."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

import psutil
from psycopg2.extensions import connection as PsycopgConnection
from psycopg2.extensions import cursor as Cursor

from benchmarks import latency
from benchmarks.baselines import drain_raw, take_raw
from benchmarks.drain import have_ended, last_outcomes
from benchmarks.load import BRANCHES, REASON, Publication, publication, publications, publish
from benchmarks.peers.contestants import OURS, PEERS, Contestant, forget_peers
from benchmarks.peers.processes import Meter, family_of, megabytes
from benchmarks.stand import Stand
from mirrorfeed.consumer.apply.projection import PROJECT_BRANCHES
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.contract.events import Envelope, Event, MirrorCompleted, MirrorFailed, MirrorStarted

PATIENCE_SECONDS = 60.0
WATCH_SECONDS = 0.05
"""How often the last events are looked for: the error of a time, of some seconds."""
MEMORY_SECONDS = 0.5
"""How often memory is looked at: what is shorter may be missed."""
RATE = 200
QUICK_BRANCHES = 500
STARTERS = 50
"""Branches whose events show that the consumer is there."""
WARM_UP = 200
"""Events before the ones that count, while all is connected and its code is loaded."""
COUNTED = 1000
REVISION = "0123456789abcdef0123456789abcdef01234567"
LIMITS: dict[str, Callable[[Stand, int], float]] = {
    "limit: pika takes and acks": take_raw,
    "limit: … and COPY of the bodies": drain_raw,
}


@dataclass(frozen=True)
class Drained:
    """What a backlog took, from the first row that was seen committed until all were."""

    events_per_second: float
    cpu_seconds: Sequence[float]
    """For 1,000 events: the consumer's, the broker's, the database's."""
    megabytes: float | None = None


def drain_limit(stand: Stand, name: str) -> Drained:
    """In this process."""
    stand.clear()
    batch = publications(OURS.backlog)
    publish(stand.amqp_url, batch)
    meter = Meter(stand)
    meter.begin(psutil.Process())
    seconds = LIMITS[name](stand, len(batch))
    return Drained(len(batch) / seconds, meter.read(len(batch)))


def drain(stand: Stand, contestant: Contestant, batch: Sequence[Publication]) -> Drained:
    """Raises RuntimeError where not all of the backlog arrives."""
    _begin_anew(stand)
    _publish(stand, contestant, batch)
    last = last_outcomes(batch)
    meter = Meter(stand)
    with (
        closing(stand.connect()) as connection,
        connection.cursor() as cursor,
        _consuming(stand, contestant) as consumer,
    ):
        _watch(consumer, lambda: _committed(cursor) > 0)
        meter.begin(consumer)
        began_at = time.perf_counter()
        remaining = len(batch) - _committed(cursor)
        peak = _watch(
            consumer, lambda: have_ended(cursor, last) and _committed(cursor) == len(batch)
        )
        seconds = time.perf_counter() - began_at
        cpu_seconds = meter.read(remaining)
    return Drained(remaining / seconds, cpu_seconds, peak)


def wrong_rows(stand: Stand, contestant: Contestant) -> int:
    """Of QUICK_BRANCHES, each of which is mirrored and then fails, its four events side by side:
    how many end with a row that is not what their attempts say."""
    _begin_anew(stand)
    batch = list(_histories(range(1, QUICK_BRANCHES + 1), attempts=2))
    _publish(stand, contestant, batch)
    with (
        closing(stand.connect()) as connection,
        connection.cursor() as cursor,
        _consuming(stand, contestant) as consumer,
    ):
        _watch(consumer, lambda: _committed(cursor) == len(batch))
    return _count_corrections(stand)


def delays(stand: Stand, connection: PsycopgConnection, contestant: Contestant) -> list[float]:
    """The milliseconds of each event that counts, from when its publication was due until it was
    seen committed."""
    _begin_anew(stand)
    first = list(_histories(range(BRANCHES - STARTERS, BRANCHES), attempts=1))
    branch_ids = range(1, (WARM_UP + COUNTED) // 2 + 1)
    if contestant.module is None:
        spool = str(stand.folder / f"{uuid4()}.db")
        numbers = map(str, (RATE, 2 * len(branch_ids), branch_ids[0]))
        caller = ["python", "-m", "benchmarks.caller", spool, *numbers]
    else:
        batch = list(_histories(branch_ids, attempts=1))
        caller = [*_publisher(stand, contestant.module, batch), str(RATE)]
    with _consuming(stand, contestant) as consumer, connection.cursor() as cursor:
        _publish(stand, contestant, first)
        _watch(consumer, lambda: _committed(cursor) == len(first))
        return latency.delays(stand, connection, caller, WARM_UP, COUNTED)


def _begin_anew(stand: Stand) -> None:
    stand.clear()
    forget_peers(stand.amqp_url)


def _publish(stand: Stand, contestant: Contestant, batch: Sequence[Publication]) -> None:
    if contestant.module is None:
        publish(stand.amqp_url, batch)
    else:
        with stand.running(*_publisher(stand, contestant.module, batch)) as publisher:
            publisher.wait()


def _publisher(stand: Stand, module: str, batch: Sequence[Publication]) -> list[str]:
    file = stand.folder / f"{uuid4()}.jsonl"
    file.write_bytes(b"\n".join(each.body for each in batch))
    return ["python", "-m", f"{PEERS}.publisher", module, str(file)]


def _histories(branch_ids: range, attempts: int) -> Iterator[Publication]:
    """Of one branch after the other: it is mirrored, and what is tried further fails."""
    source = f"/pullers/host-0/{uuid4()}"
    sequences = count(1)
    now = datetime.now(UTC) - timedelta(hours=1)

    def at(time: datetime, event: Event) -> Publication:
        return publication(Envelope(str(uuid4()), source, time, event, next(sequences)))

    for branch_id in branch_ids:
        for attempt in range(attempts):
            started_at, now = now, now + timedelta(milliseconds=1)
            yield at(started_at, MirrorStarted(branch_id, started_at))
            if attempt:
                yield at(now, MirrorFailed(branch_id, started_at, REASON))
            else:
                yield at(now, MirrorCompleted(branch_id, started_at, REVISION))


@contextmanager
def _consuming(stand: Stand, contestant: Contestant) -> Iterator[psutil.Process]:
    """Leaves no process behind, whatever happens."""
    family: list[psutil.Process] = []
    try:
        with stand.running(*contestant.command) as process:
            consumer = psutil.Process(process.pid)
            try:
                yield consumer
            finally:
                family = family_of(consumer)
    finally:
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()


def _watch(consumer: psutil.Process, condition: Callable[[], bool]) -> float:
    """The most memory it took until the condition held, in MB of 10^6 bytes."""
    peak = look_at = 0.0
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        now = time.monotonic()
        if not consumer.is_running() or consumer.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError("the consumer ended before its backlog did")
        if now > deadline:
            raise RuntimeError(f"not all events were committed after {PATIENCE_SECONDS:g} s")
        if now > look_at:
            peak = max(peak, megabytes(consumer))
            look_at = now + MEMORY_SECONDS
        time.sleep(WATCH_SECONDS)
    return peak


def _committed(cursor: Cursor) -> int:
    """How many events are."""
    cursor.execute(
        "SELECT (SELECT count(*) + count(outcome) FROM mirror_attempt)"
        " + (SELECT count(*) FROM script_activity)"
    )
    (events,) = cursor.fetchone() or (0,)
    return int(events)


def _count_corrections(stand: Stand) -> int:
    """How many rows of branches the worker's own statement would change."""
    engine = open_engine(stand.database_url)
    with engine.connect() as connection:
        branch_ids = list(range(1, BRANCHES + 1))
        corrected = connection.execute(PROJECT_BRANCHES, {"branch_ids": branch_ids}).rowcount
        connection.rollback()
    engine.dispose()
    return corrected
