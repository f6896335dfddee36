"""Declares on the broker what `mirrorfeed.contract.routing` names; safe to repeat."""

from collections.abc import Sequence

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from mirrorfeed.amqp.connections import ACCESS_REFUSED, NOT_FOUND, BrokerUnavailable
from mirrorfeed.contract import routing

DELIVERY_LIMIT = 20
"""Deliveries of one message that may end without an ack before the broker gives up on it. Explicit,
because RabbitMQ 4 has a default and 3.x none."""
UNLIMITED_DELIVERIES = 2**31 - 1
"""The dead queue is the last one; -1 means no limit only from RabbitMQ 4 on."""
EXCHANGES = (routing.EVENTS_EXCHANGE, routing.DEAD_EXCHANGE)


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


def delete_topology(channel: BlockingChannel, partitions: int) -> None:
    """Takes back what `declare_topology` did, and what a change of the number of partitions may
    have left; with the queues goes what they hold. Safe to repeat."""
    for queue in (*_queues(partitions), *routing.interim_queues(partitions)):
        channel.queue_delete(queue)
    for exchange in EXCHANGES:
        channel.exchange_delete(exchange)


def find_topology(channel: BlockingChannel, partitions: int) -> list[str]:
    """What of it is there already, such as `exchange mirror.events`: none on a broker that nobody
    uses for this."""
    names = [("exchange", each) for each in EXCHANGES]
    names += [("queue", each) for each in _queues(partitions)]
    return [f"{kind} {name}" for kind, name in names if _has(channel, kind, name)]


def ensure_topology(channel: BlockingChannel, partitions: int) -> None:
    """Declares everything; as a user who may not declare, finds that every queue is there.

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
                    " mirror-consumer init as one who may"
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
    """Deals the slots out to the queues, in turn."""
    for partition, queue in enumerate(queues):
        for pattern in routing.bindings(partition, len(queues)):
            channel.queue_bind(queue, routing.EVENTS_EXCHANGE, pattern)


def unbind_slots(channel: BlockingChannel, queues: Sequence[str]) -> None:
    """Takes back what `bind_slots` did."""
    for partition, queue in enumerate(queues):
        for pattern in routing.bindings(partition, len(queues)):
            channel.queue_unbind(queue, routing.EVENTS_EXCHANGE, pattern)


def _queues(partitions: int) -> list[str]:
    return [routing.DEAD_QUEUE, *routing.partition_queues(partitions)]


def _has(channel: BlockingChannel, kind: str, name: str) -> bool:
    # A refusal closes the channel, so each question has its own.
    with channel.connection.channel() as asking:
        declare = asking.exchange_declare if kind == "exchange" else asking.queue_declare
        try:
            declare(name, passive=True)
        except ChannelClosedByBroker as refusal:
            return bool(refusal.reply_code != NOT_FOUND)
    return True
