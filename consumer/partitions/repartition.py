"""Repartitioning: a move to another number of partitions while events come. Nothing is lost, and
order is kept.

No queue may be consumed before everything that came earlier, through other queues, is applied. So
all slots are bound to interim queues that nobody consumes yet. Once everything in the old queues is
applied, the workers switch to the interim ones, and the old ones are deleted. Then the same happens
again, from the interim queues to the new ones. Every slot is bound to some queue at all times.

Progress is kept in the database (`layout`), so that an interrupted move can continue from there.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from uuid import uuid4

import pika
from msgspec.structs import replace
from pika.adapters.blocking_connection import BlockingChannel
from sqlalchemy import Connection, Engine, text

from mirrorfeed.amqp.connections import broker_channel, consumer_count, message_count
from mirrorfeed.consumer.errors import LayoutError
from mirrorfeed.consumer.partitions.layout import (
    Layout,
    Stage,
    keep_unchanging_out,
    moving_layout,
    read_layout,
    write_layout,
)
from mirrorfeed.consumer.partitions.own_events import properties_of
from mirrorfeed.consumer.partitions.own_runs import MARKER_NAME
from mirrorfeed.consumer.partitions.topology import bind_slots, declare_queues, unbind_slots
from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope, ScriptRun

MARKERS = 2
"""A message that was routed before the slots were unbound may arrive behind the first marker, but
not behind a second one, published once the first has been applied."""
MARKER_SOURCE = "/mirror-consumer/topology"
POLL_SECONDS = 0.2

# Buried counts too: workers with --require-user do not apply a marker. If we have sent as many this
# hour as become letters, it is only counted.
SETTLED = text("""
    SELECT count(*)
    FROM unnest(CAST(:queues AS text[]), CAST(:digests AS bytea[])) AS marker (queue, digest)
    WHERE EXISTS (
        SELECT FROM script_activity
        WHERE name = :name AND date_started = :at AND hostname = marker.queue
    ) OR EXISTS (
        SELECT FROM dead_letter WHERE sha256(coalesce(original_body, body)) = marker.digest
    ) OR EXISTS (
        SELECT FROM letter_overflow WHERE source = :source AND marker.digest = ANY(digests)
    )
""")

Report = Callable[[str], None]


def repartition(
    engine: Engine,
    addresses: Sequence[pika.URLParameters],
    partitions: int,
    report: Report,
    *,
    renew: bool = False,
) -> None:
    """Moves to this number of partitions, or continues where an earlier call was interrupted.

    With `renew` the queues are replaced even if their number stays the same, to change their
    arguments. Waits for the workers to apply what is in the old queues.

    Raises LayoutError if a move to another number is under way or another process is moving,
    BrokerUnavailable or DBAPIError if a server cannot be reached.
    """
    with broker_channel(addresses) as channel:
        channel.confirm_delivery()
        with moving_layout(engine) as guard:
            layout = _begin(guard, channel, partitions, renew)
        while layout.stage is not Stage.STEADY:
            with moving_layout(engine) as guard:
                if read_layout(guard) != layout:
                    raise LayoutError(
                        "somebody else continued this move meanwhile: check it, and run the command"
                        " again"
                    )
                layout = _advance(engine, guard, channel, layout, report)


def _begin(guard: Connection, channel: BlockingChannel, partitions: int, renew: bool) -> Layout:
    keep_unchanging_out(guard)
    layout = read_layout(guard)
    if layout.moving_to not in (None, partitions):
        raise LayoutError(layout.under_way)
    if layout.stage is Stage.STEADY and (renew or layout.partitions != partitions):
        layout = Layout(layout.partitions, partitions, Stage.TO_INTERIM)
        # So that a lack of rights shows before anything has begun.
        declare_queues(channel, layout.interim)
        write_layout(guard, layout)
    return layout


def _advance(
    engine: Engine, guard: Connection, channel: BlockingChannel, layout: Layout, report: Report
) -> Layout:
    done_with: Sequence[str] = ()
    match layout.stage:
        case Stage.TO_INTERIM:
            report(f"moving from {layout.partitions} partitions to interim queues")
            _switch(engine, guard, channel, layout.old, layout.interim, report)
            following = replace(layout, stage=Stage.DELETING_OLD)
        case Stage.DELETING_OLD:
            if _have_leftovers(channel, layout.old, report):
                following = replace(layout, stage=Stage.TO_INTERIM)
            else:
                done_with = layout.old
                following = replace(layout, stage=Stage.TO_FINAL)
        case Stage.TO_FINAL:
            report(f"moving from interim queues to {layout.moving_to} partitions")
            _switch(engine, guard, channel, layout.interim, layout.final, report)
            following = replace(layout, stage=Stage.DELETING_INTERIM)
        case Stage.DELETING_INTERIM:
            if _have_leftovers(channel, layout.interim, report):
                following = replace(layout, stage=Stage.TO_FINAL)
            else:
                done_with = layout.interim
                following = Layout(len(layout.final))
        case Stage.STEADY:
            return layout
    keep_unchanging_out(guard)
    for queue in done_with:
        channel.queue_delete(queue)
    write_layout(guard, following)
    return following


def _have_leftovers(channel: BlockingChannel, queues: Sequence[str], report: Report) -> bool:
    """Whether anything has come back to queues whose last message was applied.

    The broker does not count deliveries that a worker holds, so it waits until no worker consumes
    these queues. A message returned twice is behind those returned with it, and so perhaps behind
    the marker.
    """
    while any(consumer_count(channel, queue) for queue in queues):
        channel.connection.sleep(POLL_SECONDS)
    if leftovers := sum(message_count(channel, queue) for queue in queues):
        report(f"{leftovers:,} messages came back; the workers apply them first")
    return bool(leftovers)


def _switch(
    engine: Engine,
    guard: Connection,
    channel: BlockingChannel,
    source: Sequence[str],
    target: Sequence[str],
    report: Report,
) -> None:
    """Returns once everything that ever came into the source queues is applied."""
    declare_queues(channel, [*source, *target])  # the old ones too: one may have been deleted
    # Bound to both for a moment: an event that comes twice does no harm, a lost one would.
    bind_slots(channel, target)
    guard.exec_driver_sql("SELECT 1")
    unbind_slots(channel, source)
    for _ in range(MARKERS):
        marked_at = datetime.now(UTC)
        parameters = {
            "name": MARKER_NAME,
            "source": MARKER_SOURCE,
            "at": marked_at,
            "queues": list(source),
            "digests": _publish_markers(channel, source, marked_at),
        }
        with engine.connect() as connection:
            _await_markers(connection, parameters, channel, source, report)


def _publish_markers(channel: BlockingChannel, queues: Sequence[str], at: datetime) -> list[bytes]:
    """Puts a marker at the end of each queue: once it is applied, so is the rest. Returns the
    SHA-256 of each."""
    digests = []
    for queue in queues:
        event = ScriptRun(MARKER_NAME, queue, at, at)
        envelope = Envelope(str(uuid4()), MARKER_SOURCE, at, event)
        body = wire.encode(envelope)
        channel.basic_publish("", queue, body, properties_of(envelope), mandatory=True)
        digests.append(sha256(body).digest())
    return digests


def _await_markers(
    connection: Connection,
    parameters: Mapping[str, object],
    channel: BlockingChannel,
    queues: Sequence[str],
    report: Report,
) -> None:
    reported = None
    while True:
        waiting = sum(message_count(channel, queue) for queue in queues)
        if not waiting:
            settled = connection.scalar(SETTLED, parameters)
            connection.rollback()
            if settled == len(queues):
                return
        if waiting != reported:
            report(f"waiting for the workers to apply {waiting:,} messages")
            reported = waiting
        channel.connection.sleep(POLL_SECONDS)  # also answers the broker's heartbeats
