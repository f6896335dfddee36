"""How long it takes from a call on a puller host until its row is committed."""

import json
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from psycopg2.extensions import connection as PsycopgConnection

from benchmarks.report import Row, Target, quantile
from benchmarks.stand import QUEUES, Stand
from consumer.topology import broker_channel, connection_parameters, consumer_count
from sandbox import wait_until

SUBJECT = "call to committed row, 100 events/s"
RATE = 100
WARM_UP = 100
"""Calls before the ones that count: until all is connected and its code is loaded."""
CALLS = 1000
ROUNDS = 3
PATIENCE_SECONDS = 60.0
# PostgreSQL sends a notification once the transaction that gave it is committed.
TRIGGER = """
    CREATE FUNCTION notify_benchmark() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('benchmark', NEW.branch_id || ' ' || (NEW.outcome IS NOT NULL)::int);
        RETURN NULL;
    END $$;
    CREATE TRIGGER notify_benchmark AFTER INSERT OR UPDATE ON mirror_attempt
    FOR EACH ROW EXECUTE FUNCTION notify_benchmark();
"""


def measure(stand: Stand) -> list[Row]:
    p50: list[float] = []
    p99: list[float] = []
    with closing(stand.connect()) as connection, notifying(connection):
        for number in range(ROUNDS):
            milliseconds = _round(stand, connection, number)
            p50.append(quantile(milliseconds, 50))
            p99.append(quantile(milliseconds, 99))
    return [
        Row(SUBJECT, "p50", "ms", p50, targets=[Target("≤", 15, of_ratio=False)]),
        Row(SUBJECT, "p99", "ms", p99, targets=[Target("≤", 100, of_ratio=False)]),
    ]


@contextmanager
def notifying(connection: PsycopgConnection) -> Iterator[None]:
    """While each commit of an attempt is told to whoever listens."""
    with connection.cursor() as cursor:
        cursor.execute(TRIGGER)
        try:
            yield
        finally:
            cursor.execute("DROP FUNCTION notify_benchmark CASCADE")


def _round(stand: Stand, connection: PsycopgConnection, number: int) -> list[float]:
    """The milliseconds of each call that counts."""
    stand.clear()
    spool = str(stand.folder / f"latency-{number}.db")
    caller = ("python", "-m", "benchmarks.caller", spool, str(RATE), str(WARM_UP + CALLS))
    with stand.running("mirror-consumer", "run"):
        with broker_channel(connection_parameters(stand.amqp_url)) as channel:
            wait_until(
                lambda: all(consumer_count(channel, queue) for queue in QUEUES),
                PATIENCE_SECONDS,
                "the worker to consume",
            )
        return delays(stand, connection, caller, WARM_UP, CALLS)


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
