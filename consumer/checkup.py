"""Asks the database and the broker how everything is, and has `health` judge it."""

from collections.abc import Mapping, Sequence

from msgspec import Struct
from pika import URLParameters
from sqlalchemy import Connection, Engine

from mirrorfeed.amqp.connections import (
    BrokerUnavailable,
    ask_for_queues,
)
from mirrorfeed.consumer.health import (
    Kind,
    Problem,
    QueueCounts,
    WorkerState,
    examine,
    worker_states,
)
from mirrorfeed.consumer.partitions.layout import Layout, read_layout


class Seen(Struct, frozen=True):
    """How everything is."""

    layout: Layout
    """With the queues that the workers should consume."""
    workers: list[WorkerState]
    counts: Mapping[str, QueueCounts] | None
    """Of each queue that exists; None if the broker cannot be asked."""
    problems: list[Problem]
    broker_is_away: str | None
    """Why it cannot be asked; then nothing is known of progress."""

    @property
    def queues(self) -> list[str]:
        return self.layout.queues

    def is_well(self, kind: Kind) -> bool | None:
        """None if that cannot be known."""
        if kind is Kind.PROGRESS and self.broker_is_away is not None:
            return None
        return not any(each.kind is kind for each in self.problems)


def look(engine: Engine, addresses: Sequence[URLParameters], stalled_seconds: float) -> Seen:
    """Raises DBAPIError if the database cannot be asked."""
    with engine.connect() as connection:
        layout, workers = ask_database(connection)
    counts, broker_is_away = None, None
    try:
        counts = counted(ask_for_queues(addresses, layout.queues))
    except BrokerUnavailable as error:
        broker_is_away = str(error)
    return judge(layout, workers, counts, broker_is_away, stalled_seconds)


def ask_database(connection: Connection) -> tuple[Layout, list[WorkerState]]:
    """Raises DBAPIError, and LayoutError before `mirror-consumer init`."""
    layout = read_layout(connection)
    return layout, worker_states(connection, layout.queues)


def counted(said: Mapping[str, tuple[int, int]]) -> dict[str, QueueCounts]:
    """What the broker said of queues, by name."""
    return {queue: QueueCounts(*each) for queue, each in said.items()}


def judge(
    layout: Layout,
    workers: list[WorkerState],
    counts: Mapping[str, QueueCounts] | None,
    broker_is_away: str | None,
    stalled_seconds: float,
) -> Seen:
    """What was seen, with what is not well. Without `counts`, `broker_is_away` says why."""
    problems = examine(layout.queues, workers, counts, stalled_seconds=stalled_seconds)
    return Seen(layout, workers, counts, problems, broker_is_away)
