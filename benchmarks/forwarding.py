"""How fast a forwarder drains a spool, beside bare publishers of the same events."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pika

from benchmarks.load import Publication, history, publications, publish
from benchmarks.report import Row, Target
from benchmarks.stand import Stand, await_work, wait_for_log
from mirrorfeed.contract import routing
from mirrorfeed.publisher.spool import Spool

SUBJECT = "forwarder, draining a spool"
EVENTS = 60_000
EVENTS_ONE_BY_ONE = 2000
ROUNDS = 3


def measure(stand: Stand) -> list[Row]:
    bare: list[float] = []
    ours: list[float] = []
    blocking: list[float] = []
    for number in range(ROUNDS):
        stand.clear()
        batch = publications(EVENTS)
        bare.append(len(batch) / publish(stand.amqp_url, batch))
        stand.clear()
        ours.append(_forward(stand, stand.folder / f"forwarding-{number}.db"))
        stand.clear()
        batch = publications(EVENTS_ONE_BY_ONE)
        blocking.append(len(batch) / _publish_one_by_one(stand.amqp_url, batch))
    bare_row = Row(SUBJECT, "bare, pipelined confirms", "events/s", bare)
    blocking_row = Row(SUBJECT, "bare, waiting for each confirm", "events/s", blocking)
    what = "mirror-publisher forward --drain"
    return [
        bare_row,
        blocking_row,
        Row(SUBJECT, what, "events/s", ours, bare_row, [Target("≥", 0.7)]),
        Row(SUBJECT, what, "events/s", ours, blocking_row, [Target("≥", 10)]),
    ]


def _forward(stand: Stand, path: Path) -> float:
    """Events a second, from when it says that it is connected until its spool is empty."""
    with closing(Spool(path)) as spool:
        count = _fill(spool)
        command = ("mirror-publisher", "forward", "--drain", "--spool", str(path))
        with stand.running(*command) as forwarder:
            wait_for_log(forwarder, "connected")
            began_at = time.perf_counter()
            await_work(forwarder, lambda: not spool.pending(after=0, limit=1))
            seconds = time.perf_counter() - began_at
            forwarder.wait()
    return count / seconds


def _fill(spool: Spool) -> int:
    """Appends all events in one transaction, and returns how many they are."""
    count = 0
    with spool.writing() as writer:
        for envelope in history(EVENTS):
            writer.append(envelope.event, occurred_at=envelope.time)
            count += 1
    return count


def _publish_one_by_one(amqp_url: str, batch: Sequence[Publication]) -> float:
    """The seconds that it takes when each confirm is waited for."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        began_at = time.perf_counter()
        for routing_key, body, properties, _ in batch:
            channel.basic_publish(
                routing.EVENTS_EXCHANGE, routing_key, body, properties, mandatory=True
            )
        return time.perf_counter() - began_at
