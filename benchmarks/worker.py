"""How fast workers drain a backlog, how soon one takes over, and how much memory one takes."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.bare import drain_one_by_one, drain_raw
from benchmarks.harness import Row, Rows, at_least, at_most, beside, measure
from benchmarks.load import PARTITIONS, QUEUES, Publication, publications, publish
from benchmarks.stand import Process, Stand
from mirrorfeed.contract import routing
from mirrorfeed.contract.events import MirrorCompleted, MirrorEvent, MirrorFailed
from tests.servers import wait_for

ROUNDS = 3
EVENTS = 60_000
EVENTS_ONE_BY_ONE = 1500
EVENTS_OF_A_TAKEOVER = 200
SMALL = 20_000
LARGE = 200_000
DRAIN = ("mirror-consumer", "run", "--drain")

Attempts = tuple[tuple[object, object], ...]
"""Branches and starts."""
Check = Callable[[int], bool]


@measure("drain", rounds=ROUNDS)
def drain(stand: Stand) -> Rows:
    """A worker, compared with the limit and with one transaction per message."""

    def rate(consume: Callable[[Stand, int], float], events: int) -> float:
        count = len(stand.backlog(events))
        return count / consume(stand, count)

    limit = Row("limit: pika loop, COPY of the bodies", "events/s", lambda: rate(drain_raw, EVENTS))
    naive = Row(
        "naive: SQLAlchemy, a transaction each",
        "events/s",
        lambda: rate(drain_one_by_one, EVENTS_ONE_BY_ONE),
    )
    targets = (at_least(0.6, limit), at_least(25, naive))
    ours = Row(" ".join(DRAIN), "events/s", lambda: drain_rate(stand), *targets)
    yield {"worker, draining a backlog": [limit, naive, ours]}


def drain_rate(
    stand: Stand,
    batch: Sequence[Publication] = (),
    command: Sequence[str] = DRAIN,
    is_refused: Check = lambda branch_id: False,
) -> float:
    """Events per second until the last event of each queue is committed.

    Every event of a branch for which `is_refused` holds must become a letter.
    """
    batch = batch or stand.backlog(EVENTS)
    last = last_outcomes(batch, is_refused)
    events_before, letters_before = kept(stand)
    (seconds,), _ = stand.drained(command, "consuming", [partial(have_ended, stand, last)])
    # A fast worker that loses events is worthless.
    events = (each.envelope.event for each in batch)
    refused = sum(isinstance(each, MirrorEvent) and is_refused(each.branch_id) for each in events)
    expected = events_before + len(batch) - refused, letters_before + refused
    if kept(stand) != expected:
        raise RuntimeError(f"expected {expected} events and letters, found {kept(stand)}")
    return len(batch) / seconds


def kept(stand: Stand) -> tuple[int, int]:
    """How many events were applied, and how many became letters."""
    events, letters = stand.ask("""
        SELECT (SELECT count(*) + count(outcome) FROM mirror_attempt)
            + (SELECT count(*) FROM script_activity), (SELECT count(*) FROM dead_letter)""")
    return events, letters


def last_outcomes(
    batch: Sequence[Publication], is_refused: Check = lambda branch_id: False
) -> Attempts:
    """The last attempt to end in each partition."""
    last: dict[int, tuple[object, object]] = {}
    for each in batch:
        event = each.envelope.event
        if isinstance(event, MirrorCompleted | MirrorFailed) and not is_refused(event.branch_id):
            partition = routing.slot_of(event.partition_key) % PARTITIONS
            last[partition] = (event.branch_id, event.started_at)
    return tuple(last.values())


def have_ended(stand: Stand, attempts: Attempts) -> bool:
    """Whether the outcomes of these attempts are committed."""
    query = """SELECT count(*) FROM mirror_attempt
        WHERE (branch_id, started_at) IN %s AND outcome IS NOT NULL"""
    return stand.ask(query, (attempts,)) == (len(attempts),)


def await_outcomes(stand: Stand, batch: Sequence[Publication]) -> None:
    """Waits until all of them are committed, by any worker."""
    last = last_outcomes(batch)
    wait_for(lambda: have_ended(stand, last), "the last events")


@measure("workers", rounds=ROUNDS)
def workers(stand: Stand) -> Rows:
    """Several workers compared with one, and how long a killed worker's share waits."""

    def rate(count: int) -> float:
        """The rate from when the workers are continued, with the backlog in the queues."""
        with _sharing(stand, count) as processes:
            for each in processes:
                each.send_signal(signal.SIGSTOP)
            batch = publications(EVENTS)
            publish(stand.amqp_url, batch)
            began_at = time.perf_counter()
            for each in processes:
                each.send_signal(signal.SIGCONT)
            await_outcomes(stand, batch)
            return len(batch) / (time.perf_counter() - began_at)

    def takeover_seconds() -> float:
        with _sharing(stand, 2) as processes:
            batch = publications(EVENTS_OF_A_TAKEOVER)
            began_at = time.perf_counter()
            processes[0].kill()
            publish(stand.amqp_url, batch)
            await_outcomes(stand, batch)
            return time.perf_counter() - began_at

    one = Row("one worker", "events/s", lambda: rate(1))
    two = Row("two workers", "events/s", lambda: rate(2), at_least(1, one))
    four = Row("four workers", "events/s", lambda: rate(4), beside(one))
    what = "one of two killed, until its share is applied"
    killed = Row(what, "s", takeover_seconds, at_most(10))
    yield {"workers on one machine": [one, two, four, killed]}


@contextmanager
def _sharing(stand: Stand, count: int) -> Iterator[list[Process]]:
    """Workers that have shared out the partitions, with empty queues."""

    def have_settled() -> bool:
        query = "SELECT count(DISTINCT number), count(queue) FROM worker, unnest(queues) queue"
        return stand.ask(query) == (count, len(QUEUES))

    stand.clear()
    with ExitStack() as stack:
        processes = []
        for _ in range(count):
            processes.append(stack.enter_context(stand.start("mirror-consumer", "run")))
            stack.callback(processes[-1].kill)
        wait_for(have_settled, f"{count} workers to share the partitions")
        yield processes


@measure("memory", rounds=2)
def memory(stand: Stand) -> Rows:
    """Whether memory depends on the backlog."""

    def peak(events: int) -> float:
        stand.backlog(events)
        return stand.drained(DRAIN, "consuming", [])[1]

    small = Row(f"{SMALL:,} events", "MB", lambda: peak(SMALL), at_most(150))
    large = Row(f"{LARGE:,} events", "MB", lambda: peak(LARGE), beside(small), at_most(150))
    yield {"worker, peak memory while draining": [small, large]}
