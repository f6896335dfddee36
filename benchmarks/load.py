"""The events used in all measures, and the fastest way to publish them."""

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pika
from pika.adapters.select_connection import SelectConnection

from mirrorfeed.contract import events, routing, wire
from mirrorfeed.contract.events import Envelope, Event

BRANCHES = 1000
ALL_BRANCHES = range(1, BRANCHES + 1)
HOSTS = 4
UNDER_WAY = 50
"""Attempts running at the same time."""
STEP = timedelta(milliseconds=50)
PARTITIONS = 4
QUEUES = tuple(routing.partition_queue(partition) for partition in range(PARTITIONS))
WINDOW = 1000
PACE_SECONDS = 0.005
"""How often a publisher with a fixed rate sends what is due."""
REASON = (
    "fatal: unable to access 'https://git.example.org/project.git/':"
    " Could not resolve host: git.example.org"
)


class Publication(NamedTuple):
    """One event as it is published, and the event itself."""

    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    envelope: Envelope


def history(count: int, branch_ids: Sequence[int] = ALL_BRANCHES) -> Iterator[Envelope]:
    """About `count` events from the last hours: the same attempts each time, under new ids.

    The branches' attempts start in turn, some run at the same time, and they end in any order. One
    in twenty fails, and one branch in fifty always fails. One event in a hundred is a script run.
    """
    random = Random(2007)
    sources = [f"/pullers/host-{host}/{uuid4()}" for host in range(HOSTS)]
    sequences: Counter[str] = Counter()
    now = datetime.now(UTC) - timedelta(minutes=1) - count * STEP
    under_way: list[events.MirrorStarted] = []

    def envelope(event: Event, key: int) -> Envelope:
        nonlocal now
        source = sources[key % HOSTS]
        sequences[source] += 1
        time = event.started_at if isinstance(event, events.MirrorStarted) else now
        now += STEP
        event_id = str(UUID(int=random.getrandbits(128), version=4))
        return Envelope(event_id, source, time, event, sequences[source])

    def end_one() -> Envelope:
        start = under_way.pop(random.randrange(len(under_way)))
        attempt = start.branch_id, start.started_at
        if start.branch_id % 50 == 0 or random.random() < 0.05:
            return envelope(events.MirrorFailed(*attempt, REASON), start.branch_id)
        revision = f"{random.getrandbits(160):040x}"
        return envelope(events.MirrorCompleted(*attempt, revision), start.branch_id)

    for number in range(count // 2):
        if number % 50 == 49:
            yield envelope(events.ScriptRun("branch-puller", "host-0", now - STEP, now), 0)
            continue
        start = events.MirrorStarted(branch_ids[number % len(branch_ids)], now)
        under_way.append(start)
        yield envelope(start, start.branch_id)
        if len(under_way) > UNDER_WAY:
            yield end_one()
    while under_way:
        yield end_one()


def publications(count: int, branch_ids: Sequence[int] = ALL_BRANCHES) -> list[Publication]:
    return list(map(publication, history(count, branch_ids)))


def publication(envelope: Envelope) -> Publication:
    event = envelope.event
    routing_key = routing.routing_key(event.TYPE, envelope.partition_key)
    properties = pika.BasicProperties(
        wire.CONTENT_TYPE, delivery_mode=2, message_id=envelope.id, type=event.TYPE
    )
    return Publication(routing_key, wire.encode(envelope), properties, envelope)


def publish_one(channel: Any, publication: Publication) -> None:
    """Waits for the confirm, if the channel has confirms."""
    routing_key, body, properties, _ = publication
    channel.basic_publish(routing.EVENTS_EXCHANGE, routing_key, body, properties, mandatory=True)


class Loop(ABC):
    """One pika connection in one thread, until its work is done, which took `seconds`."""

    def __init__(self, amqp_url: str) -> None:
        self.seconds = 0.0
        self.connection = SelectConnection(
            pika.URLParameters(amqp_url),
            on_open_callback=self.on_open,
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
        )

    def run(self) -> float:
        """Returns the seconds that it took. Raises RuntimeError if the connection ends before."""
        self.connection.ioloop.start()
        if not self.seconds:
            raise RuntimeError(f"a connection ended early: {self._error!r}")
        return self.seconds

    @abstractmethod
    def on_open(self, connection: SelectConnection) -> None: ...

    def begin(self) -> None:
        self.began_at = time.perf_counter()

    def end(self) -> None:
        self.seconds = time.perf_counter() - self.began_at
        self.connection.close()

    def _on_end(self, _connection: SelectConnection, error: Exception) -> None:
        self._error = error
        self.connection.ioloop.stop()


def publish(amqp_url: str, batch: Sequence[Publication], rate: float = math.inf) -> float:
    """Publishes pipelined, at most `rate` events a second, and returns the seconds from the open
    channel to the last confirm."""
    return _PipelinedPublisher(amqp_url, batch, rate).run()


class _PipelinedPublisher(Loop):
    """The least code that publishes safely: mandatory, persistent, at most WINDOW unconfirmed."""

    def __init__(self, amqp_url: str, batch: Sequence[Publication], rate: float) -> None:
        self._batch = batch
        self._rate = rate
        self._sent = 0
        self._unconfirmed: dict[int, None] = {}  # delivery tags in order
        super().__init__(amqp_url)

    def on_open(self, connection: SelectConnection) -> None:
        connection.channel(on_open_callback=self._prepare)

    def _prepare(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=self._begin)

    def _begin(self, _frame: Any) -> None:
        self.begin()
        self._keep_pace() if self._rate < math.inf else self._fill_window()

    def _on_return(self, *_: object) -> None:
        raise RuntimeError("the broker gave an event back: no queue is bound for it")

    def _keep_pace(self) -> None:
        self._fill_window()
        if self._sent < len(self._batch):
            self.connection.ioloop.call_later(PACE_SECONDS, self._keep_pace)

    def _fill_window(self) -> None:
        due = min(len(self._batch), (time.perf_counter() - self.began_at) * self._rate)
        while self._sent < due and len(self._unconfirmed) < WINDOW:
            publish_one(self._channel, self._batch[self._sent])
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
            self.end()
