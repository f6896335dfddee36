"""The events that everything is measured with, and the fastest way to publish them.

`python -m benchmarks.load AMQP_URL COUNT RATE` publishes so many of them, so many a second.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pika
from pika.adapters.select_connection import SelectConnection

from mirrorfeed.contract import routing, wire
from mirrorfeed.contract.events import (
    Envelope,
    Event,
    MirrorCompleted,
    MirrorFailed,
    MirrorStarted,
    ScriptRun,
)

BRANCHES = 1000
ALL_BRANCHES = range(1, BRANCHES + 1)
HOSTS = 4
UNDER_WAY = 50
"""Attempts that run at the same time."""
STEP = timedelta(milliseconds=50)
WINDOW = 1000
PACE_SECONDS = 0.005
"""How often a publisher that keeps a pace sends what is due."""
REASON = (
    "fatal: unable to access 'https://git.example.org/project.git/':"
    " Could not resolve host: git.example.org"
)


class Publication(NamedTuple):
    """One event as it is published, and what it was."""

    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    envelope: Envelope


def history(count: int, branch_ids: Sequence[int] = ALL_BRANCHES) -> Iterator[Envelope]:
    """About `count` events of the last hours, the same attempts each time, under new ids.

    Attempts of these branches begin in turn, some run at the same time, and they end in any order:
    one in twenty fails, and one branch in fifty always does. One event in a hundred is a script's.
    """
    random = Random(2007)
    sources = [f"/pullers/host-{host}/{uuid4()}" for host in range(HOSTS)]
    sequences: Counter[str] = Counter()
    now = datetime.now(UTC) - timedelta(minutes=1) - count * STEP
    under_way: list[MirrorStarted] = []

    def envelope(event: Event, key: int) -> Envelope:
        nonlocal now
        source = sources[key % HOSTS]
        sequences[source] += 1
        time = event.started_at if isinstance(event, MirrorStarted) else now
        now += STEP
        event_id = str(UUID(int=random.getrandbits(128), version=4))
        return Envelope(event_id, source, time, event, sequences[source])

    def end_one() -> Envelope:
        start = under_way.pop(random.randrange(len(under_way)))
        branch_id = start.branch_id
        if branch_id % 50 == 0 or random.random() < 0.05:
            return envelope(MirrorFailed(branch_id, start.started_at, REASON), branch_id)
        revision = f"{random.getrandbits(160):040x}"
        return envelope(MirrorCompleted(branch_id, start.started_at, revision), branch_id)

    for number in range(count // 2):
        if number % 50 == 49:
            yield envelope(ScriptRun("branch-puller", "host-0", now - STEP, now), 0)
            continue
        start = MirrorStarted(branch_ids[number % len(branch_ids)], now)
        under_way.append(start)
        yield envelope(start, start.branch_id)
        if len(under_way) > UNDER_WAY:
            yield end_one()
    while under_way:
        yield end_one()


def publications(count: int, branch_ids: Sequence[int] = ALL_BRANCHES) -> list[Publication]:
    return list(map(publication, history(count, branch_ids)))


def publication(envelope: Envelope) -> Publication:
    return Publication(
        routing.routing_key(envelope.event.TYPE, envelope.event.partition_key),
        wire.encode(envelope),
        pika.BasicProperties(
            content_type=wire.CONTENT_TYPE,
            delivery_mode=2,
            message_id=envelope.id,
            type=envelope.event.TYPE,
        ),
        envelope,
    )


def publish(amqp_url: str, batch: Sequence[Publication], rate: float = math.inf) -> float:
    """Publishes pipelined, no more than `rate` events a second, and returns the seconds from the
    open channel to the last confirm."""
    publisher = _PipelinedPublisher(amqp_url, batch, rate)
    publisher.run()
    return publisher.seconds


class _PipelinedPublisher:
    """The least that publishes safely: mandatory, persistent, at most WINDOW unconfirmed."""

    def __init__(self, amqp_url: str, batch: Sequence[Publication], rate: float) -> None:
        self._batch = batch
        self._rate = rate
        self._sent = 0
        self._unconfirmed: dict[int, None] = {}  # delivery tags in order
        self.seconds = 0.0
        self._connection = SelectConnection(
            pika.URLParameters(amqp_url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._prepare),
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
        )
        self._error: Exception | None = None

    def run(self) -> None:
        self._connection.ioloop.start()
        if self._unconfirmed or self._sent < len(self._batch):
            raise RuntimeError(f"publishing ended early: {self._error!r}")

    def _prepare(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=self._begin)

    def _begin(self, _frame: Any) -> None:
        self._began_at = time.perf_counter()
        self._keep_pace() if self._rate < math.inf else self._fill_window()

    def _keep_pace(self) -> None:
        self._fill_window()
        if self._sent < len(self._batch):
            self._connection.ioloop.call_later(PACE_SECONDS, self._keep_pace)

    def _fill_window(self) -> None:
        due = min(len(self._batch), (time.perf_counter() - self._began_at) * self._rate)
        while self._sent < due and len(self._unconfirmed) < WINDOW:
            routing_key, body, properties, _ = self._batch[self._sent]
            self._channel.basic_publish(
                routing.EVENTS_EXCHANGE, routing_key, body, properties, mandatory=True
            )
            self._sent += 1
            self._unconfirmed[self._sent] = None

    def _on_confirm(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            while self._unconfirmed and (first := next(iter(self._unconfirmed))) <= tag:
                del self._unconfirmed[first]
        else:
            del self._unconfirmed[tag]
        self._fill_window()
        if not self._unconfirmed and self._sent == len(self._batch):
            self.seconds = time.perf_counter() - self._began_at
            self._connection.close()

    def _on_return(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self._unconfirmed[0] = None  # never confirmed: `run` raises
        self._connection.close()

    def _on_end(self, _connection: SelectConnection, error: Exception) -> None:
        self._error = error
        self._connection.ioloop.stop()


if __name__ == "__main__":
    publish(sys.argv[1], publications(int(sys.argv[2])), float(sys.argv[3]))
