"""How long it takes from a call on a puller host to the committed row."""

import select
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from uuid import uuid4

from benchmarks.callers import at_pace
from benchmarks.harness import Row, Rows, Values, at_most, measure, quantile
from benchmarks.load import BRANCHES, QUEUES, publications, publish, publish_one
from benchmarks.stand import Process, Stand, result_of
from benchmarks.worker import await_outcomes
from mirrorfeed.amqp.connections import consumer_count
from tests.servers import wait_for

RATE = 100
WARM_UP = 100
"""Calls before those that count, until everything is connected and its code is loaded."""
CALLS = 1000
EVENTS_AT_MOST = 60_000
"""Events used to find the highest rate of publishing and applying at the same time."""
LOAD_SECONDS = 16
"""Longer than all calls take, including the time to get them started."""
TIMEOUT_SECONDS = 60.0
FIRST_BRANCH = BRANCHES + 1
"""Branches below this belong to the load."""
# PostgreSQL sends a notification once its transaction is committed.
TRIGGER = """
    CREATE FUNCTION notify_benchmark() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('benchmark', NEW.branch_id || ' ' || (NEW.outcome IS NOT NULL)::int);
        RETURN NULL;
    END $$;
    CREATE TRIGGER notify_benchmark AFTER INSERT OR UPDATE ON mirror_attempt
    FOR EACH ROW WHEN (NEW.branch_id >= %s) EXECUTE FUNCTION notify_benchmark();
"""


@measure("latency", rounds=3)
def latency(stand: Stand) -> Rows:
    def calm() -> Values:
        with _worker(stand):
            delays = _call_delays(stand)
        return {p50.what: quantile(delays, 50), p99.what: quantile(delays, 99)}

    def busy() -> Values:
        rate = _rate_at_most(stand)
        return {most.what: rate, half.what: quantile(_loaded_delays(stand, rate / 2), 99)}

    what = "a bare confirmed publish and a bare commit, p50"
    bare = Row(what, "ms", lambda: quantile(_bare_delays(stand), 50))
    p50 = Row(f"{RATE} calls/s, p50", "ms", calm, at_most(2.5, bare), at_most(15))
    p99 = Row(f"{RATE} calls/s, p99", "ms", calm, at_most(100))
    most = Row("the most that is published and applied meanwhile", "events/s", busy)
    half = Row(f"{RATE} calls/s beside half the most, p99", "ms", busy, at_most(250))
    with notifying(stand, FIRST_BRANCH):
        yield {"call to committed row": [bare, p50, p99, most, half]}


@contextmanager
def notifying(stand: Stand, first_branch: int = 1) -> Iterator[None]:
    """In the block, each commit of an attempt of these branches notifies those who listen."""
    stand.ask(TRIGGER, (first_branch,))
    try:
        yield
    finally:
        stand.ask("DROP FUNCTION notify_benchmark CASCADE")


def _bare_delays(stand: Stand) -> list[float]:
    """The milliseconds of publishing one event, waiting for its confirm, and committing a row."""
    stand.clear()
    stand.ask("CREATE TABLE bare (body bytea NOT NULL)")
    batch = publications(WARM_UP + CALLS // 2)
    delays = []
    with stand.channel() as channel, stand.connection.cursor() as cursor:
        channel.confirm_delivery()
        for each, _ in zip(batch, at_pace(RATE, len(batch)), strict=True):
            began_at = time.perf_counter()
            publish_one(channel, each)
            cursor.execute("INSERT INTO bare VALUES (%s)", (each.body,))
            delays.append(1000 * (time.perf_counter() - began_at))
    stand.ask("DROP TABLE bare")
    return delays[WARM_UP:]


def _rate_at_most(stand: Stand) -> float:
    """Events per second, published as fast as possible and applied at the same time."""
    batch = publications(EVENTS_AT_MOST)
    with _worker(stand):
        began_at = time.perf_counter()
        publish(stand.amqp_url, batch)
        await_outcomes(stand, batch)
        return len(batch) / (time.perf_counter() - began_at)


def _loaded_delays(stand: Stand, rate: float) -> list[float]:
    count = int(rate * LOAD_SECONDS)
    with _worker(stand), stand.calling("load", stand.amqp_url, count, rate) as load:
        has_begun = "SELECT EXISTS (SELECT FROM mirror_attempt)"
        wait_for(lambda: stand.ask(has_begun) == (True,), "the load to come")
        delays = _call_delays(stand)
        if load.poll() is not None:
            raise RuntimeError("the load ended before the calls did")
        load.wait()
    return delays


@contextmanager
def _worker(stand: Stand) -> Iterator[None]:
    """A worker that consumes; the calls' branches are registered."""
    stand.clear()
    stand.register(FIRST_BRANCH + (WARM_UP + CALLS) // 2, first=FIRST_BRANCH)
    with stand.running("mirror-consumer", "run"):
        with stand.channel() as channel:
            wait_for(lambda: all(map(partial(consumer_count, channel), QUEUES)), "a consumer")
        yield


def _call_delays(stand: Stand) -> list[float]:
    spool = stand.folder / f"latency-{uuid4()}.db"
    calls = stand.calling("puller", spool, RATE, WARM_UP + CALLS, FIRST_BRANCH)
    return delays_of(stand, calls, WARM_UP, CALLS)


def delays_of(
    stand: Stand, caller: AbstractContextManager[Process], warm_up: int, count: int
) -> list[float]:
    """The milliseconds of each of `count` calls, from when it was due; earlier calls do not count.

    The caller says when each was due, in order, under the names that `_listen` uses.
    """
    with caller as calls:
        stand.ask("LISTEN benchmark")
        committed_at = _listen(stand, warm_up + count)
        stand.ask("UNLISTEN benchmark")
        due_at: dict[str, float] = result_of(calls)
    counted = list(due_at)[warm_up:]
    return [1000 * (committed_at[key] - due_at[key]) for key in counted]


def _listen(stand: Stand, count: int) -> dict[str, float]:
    """When each event was seen committed, in seconds of the clock that all processes share."""
    seen: dict[str, float] = {}
    while len(seen) < count:
        if not select.select([stand.connection], [], [], TIMEOUT_SECONDS)[0]:
            raise RuntimeError(f"{count - len(seen)} of {count} events were not committed")
        stand.connection.poll()
        now = time.monotonic()
        for notification in stand.connection.notifies:
            branch_id, has_ended = notification.payload.split()
            # If one transaction has both events of an attempt, only the end is notified.
            for kind in ("started", "ended") if has_ended == "1" else ("started",):
                seen.setdefault(f"{kind} {branch_id}", now)
        stand.connection.notifies.clear()
    return seen
