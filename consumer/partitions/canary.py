"""A canary: one harmless event goes through each partition, as a puller's would, to its row."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from socket import gethostname
from uuid import uuid4

import pika
from msgspec import Struct
from pika.adapters.blocking_connection import BlockingChannel
from sqlalchemy import Engine, text

from mirrorfeed.consumer.errors import ServerUnavailable
from mirrorfeed.consumer.partitions.layout import Layout
from mirrorfeed.consumer.partitions.own_events import properties_of
from mirrorfeed.consumer.partitions.own_runs import canary_name
from mirrorfeed.contract import routing, wire
from mirrorfeed.contract.events import MAX_NAME_LENGTH, Envelope, ScriptRun
from mirrorfeed.contract.reasons import Reason

POLL_SECONDS = 0.05

FIND_RUNS = text("""
    SELECT DISTINCT name FROM script_activity
    WHERE name = ANY (CAST(:names AS text[])) AND hostname = :hostname AND date_started = :at
""")

FIND_LETTERS = text("""
    SELECT event_id, reason, detail FROM dead_letter
    WHERE event_id = ANY (CAST(:ids AS text[]))
""")


class Flight(Struct, frozen=True):
    """What became of one partition's canary."""

    queue: str
    name: str
    """Of the script whose run it reports."""
    seconds: float | None
    """Until its row was there; None if it did not arrive in time."""
    reason: Reason | None = None
    """Why it became a letter."""
    detail: str | None = None


def canary_names(partitions: int) -> list[str]:
    """A script's name for each partition, in order, whose events go there."""
    names: dict[int, str] = {}
    number = 0
    while len(names) < partitions:
        name = canary_name(number)
        names.setdefault(routing.slot_of(f"script:{name}") % partitions, name)
        number += 1
    return [names[partition] for partition in range(partitions)]


def fly(
    engine: Engine,
    channel: BlockingChannel,
    layout: Layout,
    *,
    user: str | None,
    timeout_seconds: float,
) -> list[Flight]:
    """Sends a canary through each partition, and waits for the rows.

    `user` is who publishes, for workers that require one. Raises ServerUnavailable if the broker
    does not take them.
    """
    names = canary_names(len(layout.queues))
    hostname = gethostname()[:MAX_NAME_LENGTH] or "localhost"
    sent_at = datetime.now(UTC)
    began_at = time.monotonic()
    ids = [_publish(channel, name, hostname, sent_at, user) for name in names]
    arrived: dict[str, float] = {}
    asked = {"names": names, "hostname": hostname, "at": sent_at}
    while len(arrived) < len(names):
        with engine.connect() as connection:
            found = connection.scalars(FIND_RUNS, asked).all()
        seconds = time.monotonic() - began_at
        for name in found:
            arrived.setdefault(name, seconds)
        if seconds > timeout_seconds:
            break
        channel.connection.sleep(POLL_SECONDS)  # also answers the broker's heartbeats
    return _flights(engine, layout.queues, names, ids, arrived)


def _flights(
    engine: Engine,
    queues: Sequence[str],
    names: Sequence[str],
    ids: Sequence[str],
    arrived: dict[str, float],
) -> list[Flight]:
    letters = {}
    if len(arrived) < len(names):
        with engine.connect() as connection:
            letters = {row.event_id: row for row in connection.execute(FIND_LETTERS, {"ids": ids})}
    flights = []
    for queue, name, event_id in zip(queues, names, ids, strict=True):
        letter = letters.get(event_id)
        fate = () if letter is None else (Reason(letter.reason), letter.detail)
        flights.append(Flight(queue, name, arrived.get(name), *fate))
    return flights


def _publish(
    channel: BlockingChannel, name: str, hostname: str, at: datetime, user: str | None
) -> str:
    event = ScriptRun(name, hostname, at, at)
    envelope = Envelope(str(uuid4()), f"/canaries/{hostname}", at, event)
    key = routing.routing_key(event.TYPE, envelope.partition_key)
    try:
        channel.basic_publish(
            routing.EVENTS_EXCHANGE,
            key,
            wire.encode(envelope),
            properties_of(envelope, user),
            mandatory=True,
        )
    except (pika.exceptions.UnroutableError, pika.exceptions.NackError) as error:
        raise ServerUnavailable(
            f"the broker did not take the canary {key}: {error!r}; mirror-consumer init declares"
            " what is missing"
        ) from error
    return envelope.id
