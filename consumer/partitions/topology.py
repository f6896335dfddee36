"""Declares on the broker what `mirrorfeed.contract.routing` names. Safe to repeat."""

from collections.abc import Sequence

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from mirrorfeed.amqp.connections import ACCESS_REFUSED, NOT_FOUND, BrokerUnavailable
from mirrorfeed.contract import routing

DELIVERY_LIMIT = 20
"""How many deliveries of a message may end without an ack before the broker gives up on it.
Explicit, because RabbitMQ 4 has a default and 3.x has none."""
UNLIMITED_DELIVERIES = 2**31 - 1
"""There is nothing behind the dead queue. -1 means no limit only from RabbitMQ 4 on."""


def declare_topology(channel: BlockingChannel, partitions: int) -> None:
    """Declares both exchanges, the dead queue, and the partition queues with their bindings."""
    channel.exchange_declare(routing.EVENTS_EXCHANGE, "topic", durable=True)
    channel.exchange_declare(routing.DEAD_EXCHANGE, "fanout", durable=True)
    channel.queue_declare(
        routing.DEAD_QUEUE,
        durable=True,
        arguments={"x-queue-type": "quorum", "x-delivery-limit": UNLIMITED_DELIVERIES},
    )
    channel.queue_bind(routing.DEAD_QUEUE, routing.DEAD_EXCHANGE)
    queues = routing.partition_queues(partitions)
    declare_queues(channel, queues)
    bind_slots(channel, queues)


def ensure_topology(channel: BlockingChannel, partitions: int) -> None:
    """Declares everything, or, if this user may not declare, checks that every queue is there.

    Raises BrokerUnavailable if a queue is missing that this user may not declare."""
    try:
        declare_topology(channel, partitions)
    except ChannelClosedByBroker as error:
        if error.reply_code != ACCESS_REFUSED:
            raise
        _find_queues(channel.connection.channel(), partitions)


def _find_queues(channel: BlockingChannel, partitions: int) -> None:
    for queue in (routing.DEAD_QUEUE, *map(routing.partition_queue, range(partitions))):
        try:
            channel.queue_declare(queue, passive=True)
        except ChannelClosedByBroker as error:
            if error.reply_code != NOT_FOUND:
                raise
            raise BrokerUnavailable(
                f"there is no queue {queue}, and this user may not declare it: run mirror-consumer"
                " init as a user who may"
            ) from error


def declare_queues(channel: BlockingChannel, queues: Sequence[str]) -> None:
    """Declares partition queues."""
    for queue in queues:
        channel.queue_declare(
            queue,
            durable=True,
            arguments={
                "x-queue-type": "quorum",
                "x-single-active-consumer": True,
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": routing.DEAD_EXCHANGE,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        )


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
