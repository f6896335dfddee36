"""One part of the hot path, for so many events: `python -m benchmarks.counted PART EVENTS`.

Everything that does not grow with EVENTS is the same in each run, so that the difference between
two runs belongs to the events.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

from mirrorfeed.amqp.read_frames import MAX_RECEIVED_BYTES
from mirrorfeed.contract import events, wire

BATCH = 1000
READ_BYTES = MAX_RECEIVED_BYTES
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def deliver(count: int) -> None:
    """Bytes from the broker become deliveries, which are then dropped."""
    from pika import BasicProperties, frame
    from pika.spec import Basic

    from mirrorfeed.amqp.read_frames import DeliveryConnection
    from sandbox.memory_broker import MemoryBroker

    properties = BasicProperties(delivery_mode=2, message_id="id", user_id="puller")
    stream = b"".join(
        part.marshal()
        for tag, body in enumerate(_bodies(), start=1)
        for part in (
            frame.Method(1, Basic.Deliver("tag", tag, False, "mirror.events", "mirror.started.5")),
            frame.Header(1, len(body), properties),
            frame.Body(1, body),
        )
    )
    received = 0

    def receive(*_message: object) -> None:
        nonlocal received
        received += 1

    with MemoryBroker(DeliveryConnection) as broker:
        broker.consume(broker.open_channel(1), "tag", receive)
        for _ in range(count // BATCH):
            for begin in range(0, len(stream), READ_BYTES):
                broker.send(stream[begin : begin + READ_BYTES])
    if received != count // BATCH * BATCH:
        raise RuntimeError("something else than all messages was delivered")


def decode(count: int) -> None:
    """Bodies become events."""
    bodies = _bodies()
    for number in range(count):
        wire.decode(bodies[number % BATCH])


def collect(count: int) -> None:
    """Messages go through the inbox, a batch at a time."""
    # Here, because under valgrind imports are a hundred times as slow: only this part needs these.
    from mirrorfeed.consumer.apply.message import read_message
    from mirrorfeed.consumer.worker.inbox import Delivery, Inbox, Subscription

    messages = list(map(read_message, _bodies()))
    subscription = Subscription("queue", BATCH)
    inbox = Inbox(BATCH)
    for _ in range(count // BATCH):
        for tag, message in enumerate(messages):
            inbox.put(Delivery(message, subscription, tag, len(message.body)))
        if len(inbox.take()) != BATCH:
            raise RuntimeError("the inbox gave out something else than the batch")


def apply(count: int) -> None:
    """Batches become statements and parameters, which are not executed, and are counted."""
    from sqlalchemy import Engine

    from mirrorfeed.consumer.apply.applier import Applier
    from mirrorfeed.consumer.apply.message import read_message
    from mirrorfeed.consumer.worker.counts import Counts

    messages = list(map(read_message, _bodies()))
    applier = Applier(cast(Engine, _Nobody()))
    counts = Counts()
    for _ in range(count // BATCH):
        counts.committed(applier.apply(messages))


def call(count: int) -> None:
    """A client's calls are encoded and spooled."""
    from mirrorfeed.publisher import BranchStatusClient

    with (
        TemporaryDirectory(prefix="mirrorfeed-counted-") as folder,
        closing(BranchStatusClient(Path(folder) / "spool.db", forward=False)) as client,
    ):
        for number in range(count // 2):
            branch_id = number % BATCH + 1
            client.start_mirroring(branch_id)
            client.mirror_complete(branch_id, f"{number:040x}")


PARTS: Mapping[str, Callable[[int], None]] = {
    each.__name__: each for each in (deliver, decode, collect, apply, call)
}


class _Nobody:
    """An engine, its connection and its results: accepts everything, and says that every branch is
    registered, and every source known."""

    returns_rows = False

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}
        self._uris: list[str] = []

    @contextmanager
    def connect(self) -> Iterator["_Nobody"]:
        yield self

    begin = connect

    def commit(self) -> None:
        pass

    def execute(self, statement: object, parameters: object = None) -> "_Nobody":
        if isinstance(parameters, Mapping) and "uris" in parameters:
            self._uris = parameters["uris"]
        return self

    def __iter__(self) -> Iterator[SimpleNamespace]:
        return (SimpleNamespace(uri=uri, id=7) for uri in self._uris)

    def scalars(self, statement: object, parameters: Mapping[str, Any]) -> Any:
        return range(1, BATCH + 1)


def _bodies() -> list[bytes]:
    """A batch as it is on the wire: one attempt in twenty failed, and one event in a hundred is a
    script run."""
    return [wire.encode(_envelope(number)) for number in range(BATCH)]


def _envelope(number: int) -> events.Envelope:
    branch_id = number // 2 + 1
    time = started_at = BEGIN + timedelta(milliseconds=50) * branch_id
    event: events.Event = events.MirrorStarted(branch_id, started_at)
    if number % 2:
        time = started_at + timedelta(seconds=2)
        if number % 100 == 99:
            event = events.ScriptRun("branch-puller", "host-0", started_at, time)
        elif number % 40 == 1:
            event = events.MirrorFailed(branch_id, started_at, "could not resolve the host's name")
        else:
            event = events.MirrorCompleted(branch_id, started_at, f"{number:040x}")
    source = f"/pullers/host-{number % 4}/spool"
    return events.Envelope(f"{number:036}", source, time, event, number + 1)


if __name__ == "__main__":
    PARTS[sys.argv[1]](int(sys.argv[2]))
