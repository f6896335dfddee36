"""Declares on the broker what `mirrorfeed.contract.routing` names. Safe to repeat."""

from collections.abc import Sequence
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from mirrorfeed.amqp.connections import (
    ACCESS_REFUSED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    BrokerUnavailable,
    broker_version,
)
from mirrorfeed.contract import routing

UNREACHED_DELIVERIES = 10**6
"""We count what kills workers, in the database. The broker counts every return, and 4.x by default
gives up after 20; -1 means no limit only from 4.0 on."""
DEAD_QUEUE_DELIVERIES = 2**31 - 1
"""As 0.1.0 declared it: a queue's arguments cannot be changed, and there is no need to."""
SAFE_DEAD_LETTERING = (4, 0)
"""On 3.10 a message with `expiration` and a forged `x-death` kills a queue that dead-letters at
most once, and the process that does so at least once. So nothing is dead-lettered there."""
EXCHANGES = (routing.EVENTS_EXCHANGE, routing.DEAD_EXCHANGE)


def declare_topology(channel: BlockingChannel, partitions: int) -> list[str]:
    """Declares both exchanges, the dead queue, and the partition queues with their bindings.

    Returns the queues that an older version declared with other arguments, which work as well.
    """
    channel.exchange_declare(routing.EVENTS_EXCHANGE, "topic", durable=True)
    channel.exchange_declare(routing.DEAD_EXCHANGE, "fanout", durable=True)
    channel.queue_declare(
        routing.DEAD_QUEUE,
        durable=True,
        arguments={"x-queue-type": "quorum", "x-delivery-limit": DEAD_QUEUE_DELIVERIES},
    )
    channel.queue_bind(routing.DEAD_QUEUE, routing.DEAD_EXCHANGE)
    queues = routing.partition_queues(partitions)
    older = declare_queues(channel, queues)
    bind_slots(channel, queues)
    return older


def delete_topology(channel: BlockingChannel, partitions: int) -> None:
    """Undoes `declare_topology`, and deletes what a change in the number of partitions may have
    left. Whatever the queues hold goes with them. Safe to repeat."""
    for queue in (*_queues(partitions), *routing.interim_queues(partitions)):
        channel.queue_delete(queue)
    for exchange in EXCHANGES:
        channel.exchange_delete(exchange)


def find_topology(channel: BlockingChannel, partitions: int) -> list[str]:
    """What of it already exists, such as `exchange mirror.events`; nothing on a broker that nobody
    uses for mirrorfeed."""
    names = [("exchange", each) for each in EXCHANGES]
    names += [("queue", each) for each in _queues(partitions)]
    return [f"{kind} {name}" for kind, name in names if _has(channel, kind, name)]


def ensure_topology(channel: BlockingChannel, partitions: int) -> None:
    """Declares everything, or, if this user may not declare, checks that every queue is there.

    Raises BrokerUnavailable if a queue is missing that this user may not declare."""
    try:
        declare_topology(channel, partitions)
    except ChannelClosedByBroker as error:
        if error.reply_code != ACCESS_REFUSED:
            raise
        for queue in _queues(partitions):
            if not _has(channel, "queue", queue):
                raise BrokerUnavailable(
                    f"there is no queue {queue}, and this user may not declare it: run"
                    " mirror-consumer init as a user who may"
                ) from error


def declare_queues(channel: BlockingChannel, queues: Sequence[str]) -> list[str]:
    """Declares partition queues; returns those that have an older version's arguments."""
    return [queue for queue in queues if not _declare_queue(channel, queue)]


def queue_arguments(channel: BlockingChannel) -> dict[str, Any]:
    """The arguments of a partition queue on this channel's broker."""
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": UNREACHED_DELIVERIES,
        "x-overflow": "reject-publish",
    }
    if broker_version(channel) >= SAFE_DEAD_LETTERING:
        arguments["x-dead-letter-exchange"] = routing.DEAD_EXCHANGE
    return arguments


def _declare_queue(channel: BlockingChannel, queue: str) -> bool:
    # A refusal closes the channel.
    with channel.connection.channel() as declaring:
        try:
            declaring.queue_declare(queue, durable=True, arguments=queue_arguments(channel))
        except ChannelClosedByBroker as refusal:
            if refusal.reply_code != PRECONDITION_FAILED:
                raise
            return False
    return True


def bind_slots(channel: BlockingChannel, queues: Sequence[str]) -> None:
    """Binds the slots to the queues, dealt out in turn."""
    for partition, queue in enumerate(queues):
        for pattern in routing.bindings(partition, len(queues)):
            channel.queue_bind(queue, routing.EVENTS_EXCHANGE, pattern)


def unbind_slots(channel: BlockingChannel, queues: Sequence[str]) -> None:
    """Undoes `bind_slots`."""
    for partition, queue in enumerate(queues):
        for pattern in routing.bindings(partition, len(queues)):
            channel.queue_unbind(queue, routing.EVENTS_EXCHANGE, pattern)


def _queues(partitions: int) -> list[str]:
    return [routing.DEAD_QUEUE, *routing.partition_queues(partitions)]


def _has(channel: BlockingChannel, kind: str, name: str) -> bool:
    # A refusal closes the channel, so each question gets a new one.
    with channel.connection.channel() as asking:
        declare = asking.exchange_declare if kind == "exchange" else asking.queue_declare
        try:
            declare(name, passive=True)
        except ChannelClosedByBroker as refusal:
            return bool(refusal.reply_code != NOT_FOUND)
    return True
