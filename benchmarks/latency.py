"""How long it takes from a call on a puller host until its row is committed."""

import json
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from uuid import uuid4

from psycopg2.extensions import connection as PsycopgConnection

from benchmarks.caller import at_pace
from benchmarks.drain import await_outcomes, last_outcomes
from benchmarks.load import BRANCHES, publications, publish
from benchmarks.report import Row, Target, quantile
from benchmarks.stand import QUEUES, Stand
from mirrorfeed.amqp.connections import broker_channel, connection_parameters, consumer_count
from mirrorfeed.contract import routing
from sandbox import wait_until

SUBJECT = "call to committed row"
RATE = 100
WARM_UP = 100
"""Calls before the ones that count: until all is connected and its code is loaded."""
CALLS = 1000
EACH = WARM_UP + CALLS
ROUNDS = 3
EVENTS_AT_MOST = 60_000
"""To find out how many events a second can be published and applied at the same time."""
LOAD_SECONDS = 16
"""Longer than all calls take, with the time that it takes to get them under way."""
PATIENCE_SECONDS = 60.0
FIRST_BRANCH = BRANCHES + 1
"""Those below are left to the load."""
# PostgreSQL sends a notification once the transaction that gave it is committed.
TRIGGER = """
    CREATE FUNCTION notify_benchmark() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('benchmark', NEW.branch_id || ' ' || (NEW.outcome IS NOT NULL)::int);
        RETURN NULL;
    END $$;
    CREATE TRIGGER notify_benchmark AFTER INSERT OR UPDATE ON mirror_attempt
    FOR EACH ROW WHEN (NEW.branch_id >= %s) EXECUTE FUNCTION notify_benchmark();
"""


def measure(stand: Stand) -> list[Row]:
    bare: list[float] = []
    calm: list[list[float]] = []
    loaded: list[list[float]] = []
    most: list[float] = []
    with closing(stand.connect()) as connection, notifying(connection, FIRST_BRANCH):
        for _ in range(ROUNDS):
            bare.append(quantile(_bare(stand, connection), 50))
            calm.append(_round(stand, connection))
            most.append(_rate_at_most(stand))
            loaded.append(_round(stand, connection, load_rate=most[-1] / 2))
    bare_row = Row(SUBJECT, "a bare confirmed publish and a bare commit, p50", "ms", bare)
    p50 = [quantile(milliseconds, 50) for milliseconds in calm]
    p99 = [quantile(milliseconds, 99) for milliseconds in calm]
    loaded_p99 = [quantile(milliseconds, 99) for milliseconds in loaded]
    half = f"{RATE} calls/s beside half the most, p99"
    return [
        bare_row,
        Row(SUBJECT, f"{RATE} calls/s, p50", "ms", p50, bare_row, [Target("≤", 2.5), _at_most(15)]),
        Row(SUBJECT, f"{RATE} calls/s, p99", "ms", p99, targets=[_at_most(100)]),
        Row(SUBJECT, "the most that is published and applied meanwhile", "events/s", most),
        Row(SUBJECT, half, "ms", loaded_p99, targets=[_at_most(250)]),
    ]


def _at_most(milliseconds: float) -> Target:
    return Target("≤", milliseconds, of_ratio=False)


@contextmanager
def notifying(connection: PsycopgConnection, first_branch: int = 1) -> Iterator[None]:
    """While each commit of an attempt of these branches is told to whoever listens."""
    with connection.cursor() as cursor:
        cursor.execute(TRIGGER, (first_branch,))
        try:
            yield
        finally:
            cursor.execute("DROP FUNCTION notify_benchmark CASCADE")


def _bare(stand: Stand, connection: PsycopgConnection) -> list[float]:
    """The milliseconds of publishing one event, waiting for its confirm, and committing a row."""
    stand.clear()
    milliseconds = []
    with (
        broker_channel(connection_parameters(stand.amqp_url)) as channel,
        connection.cursor() as cursor,
    ):
        channel.confirm_delivery()
        cursor.execute("CREATE TABLE bare (body bytea NOT NULL)")
        batch = publications(WARM_UP + CALLS // 2)
        for (routing_key, body, properties, _), _ in zip(
            batch, at_pace(RATE, len(batch)), strict=True
        ):
            began_at = time.perf_counter()
            channel.basic_publish(routing.EVENTS_EXCHANGE, routing_key, body, properties, True)
            cursor.execute("INSERT INTO bare VALUES (%s)", (body,))
            milliseconds.append(1000 * (time.perf_counter() - began_at))
        cursor.execute("DROP TABLE bare")
    return milliseconds[WARM_UP:]


def _rate_at_most(stand: Stand) -> float:
    """Events a second while they are published as fast as can be and applied at the same time."""
    stand.clear()
    batch = publications(EVENTS_AT_MOST)
    last = last_outcomes(batch)
    with _worker(stand):
        began_at = time.perf_counter()
        publish(stand.amqp_url, batch)
        await_outcomes(stand, last)
        return len(batch) / (time.perf_counter() - began_at)


def _round(stand: Stand, connection: PsycopgConnection, load_rate: float = 0) -> list[float]:
    """The milliseconds of each call that counts."""
    stand.clear()
    _register(connection)
    spool = str(stand.folder / f"latency-{uuid4()}.db")
    calls = ("python", "-m", "benchmarks.caller", spool, *map(str, (RATE, EACH, FIRST_BRANCH)))
    with _worker(stand):
        if not load_rate:
            return delays(stand, connection, calls, WARM_UP, CALLS)
        count = str(int(load_rate * LOAD_SECONDS))
        load = ("python", "-m", "benchmarks.load", stand.amqp_url, count, str(load_rate))
        with stand.running(*load) as loading:
            wait_until(lambda: _has_attempts(connection), PATIENCE_SECONDS, "the load to come")
            milliseconds = delays(stand, connection, calls, WARM_UP, CALLS)
            if loading.poll() is not None:
                raise RuntimeError("the load ended before the calls did")
            loading.wait()
        return milliseconds


@contextmanager
def _worker(stand: Stand) -> Iterator[None]:
    with stand.running("mirror-consumer", "run"):
        with broker_channel(connection_parameters(stand.amqp_url)) as channel:
            wait_until(
                lambda: all(consumer_count(channel, queue) for queue in QUEUES),
                PATIENCE_SECONDS,
                "the worker to consume",
            )
        yield


def _register(connection: PsycopgConnection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO branch (id, unique_name)"
            " SELECT id, '~owner/branch-' || id FROM generate_series(%s, %s) id",
            (FIRST_BRANCH, FIRST_BRANCH + EACH // 2),
        )


def _has_attempts(connection: PsycopgConnection) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM mirror_attempt)")
        return bool(cursor.fetchone() == (True,))


def delays(
    stand: Stand, connection: PsycopgConnection, caller: Sequence[str], warm_up: int, count: int
) -> list[float]:
    """The milliseconds of each of `count` calls, from when it was due; those before do not count.

    The caller prints when each was due, in their order, under the name that `_listen` gives it.
    """
    with connection.cursor() as cursor, stand.running(*caller) as calls:
        cursor.execute("LISTEN benchmark")
        committed_at = _listen(connection, warm_up + count)
        cursor.execute("UNLISTEN benchmark")
        assert calls.stdout is not None
        due_at: dict[str, float] = json.loads(calls.stdout.read())
        calls.wait()
    counted = list(due_at)[warm_up:]
    return [1000 * (committed_at[key] - due_at[key]) for key in counted]


def _listen(connection: PsycopgConnection, count: int) -> dict[str, float]:
    """When each event was seen committed, on the clock that all processes share, in seconds."""
    seen: dict[str, float] = {}
    while len(seen) < count:
        if not select.select([connection], [], [], PATIENCE_SECONDS)[0]:
            raise RuntimeError(f"{count - len(seen)} of {count} events were not committed")
        connection.poll()
        now = time.monotonic()
        for notification in connection.notifies:
            branch_id, has_ended = notification.payload.split()
            # Where one transaction brings both events of an attempt, only its end is notified.
            for kind in ("started", "ended") if has_ended == "1" else ("started",):
                seen.setdefault(f"{kind} {branch_id}", now)
        connection.notifies.clear()
    return seen
