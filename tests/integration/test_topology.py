"""What is declared on a real broker."""

from itertools import islice
from typing import Any

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from mirrorfeed.amqp.connections import (
    BrokerUnavailable,
    broker_channel,
    broker_version,
    connection_parameters,
    message_count,
)
from mirrorfeed.consumer.partitions.topology import declare_topology
from mirrorfeed.contract import routing, wire
from mirrorfeed.contract.events import MirrorFailed
from tests.builders import START, bodies, failed, started
from tests.servers import OLDER_ARGUMENTS, PATIENCE_SECONDS, publish_events, take_all


def test_declaring_again_changes_nothing(topology: str) -> None:
    """Messages stay where they are, and events go on to one partition each, as before."""
    events = [started(branch_id, 0) for branch_id in range(1, 101)]
    publish_events(topology, *events)
    queues = [*routing.partition_queues(routing.DEFAULT_PARTITIONS), routing.DEAD_QUEUE]
    with broker_channel(connection_parameters(topology)) as channel:
        before = [message_count(channel, queue) for queue in queues]
        declare_topology(channel, routing.DEFAULT_PARTITIONS)
        assert [message_count(channel, queue) for queue in queues] == before
        publish_events(topology, *events)
        assert [message_count(channel, queue) for queue in queues] == [2 * n for n in before]
    assert sum(before) == 100


@pytest.mark.parametrize("partitions", [1, 4, 7])
def test_every_event_reaches_exactly_one_partition(amqp_url: str, partitions: int) -> None:
    """The number of partitions does not matter."""
    with broker_channel(connection_parameters(amqp_url)) as channel:
        declare_topology(channel, partitions)
    events = [started(branch_id, 0) for branch_id in range(1, 101)]
    publish_events(amqp_url, *events)
    taken = [body for _, body in take_all(amqp_url, 100, partitions)]
    assert sorted(taken) == sorted(bodies(events))


def test_the_queues_are_as_the_contract_has_them(topology: str) -> None:
    """A declaration that differs in one argument is refused by the broker."""
    contract: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-overflow": "reject-publish",
        "x-delivery-limit": 10**6,
    }
    with pika.BlockingConnection(pika.URLParameters(topology)) as connection:
        if broker_version(connection.channel()) >= (4, 0):
            contract["x-dead-letter-exchange"] = "mirror.dead"
        for partition in range(routing.DEFAULT_PARTITIONS):
            queue = f"mirror.events.p{partition}"
            connection.channel().queue_declare(queue, durable=True, arguments=contract)
        with pytest.raises(ChannelClosedByBroker):
            connection.channel().queue_declare(
                "mirror.events.p0", durable=True, arguments=contract | {"x-delivery-limit": 21}
            )


def test_an_older_versions_queues_serve_as_well(amqp_url: str) -> None:
    """Their arguments cannot be changed, so they are named, bound and left as they are."""
    with broker_channel(connection_parameters(amqp_url)) as channel:
        for queue in ("mirror.events.p1", "mirror.events.p3"):
            channel.queue_declare(queue, durable=True, arguments=OLDER_ARGUMENTS)
        assert declare_topology(channel, 4) == ["mirror.events.p1", "mirror.events.p3"]
        assert declare_topology(channel, 4) == ["mirror.events.p1", "mirror.events.p3"]
    events = [started(branch_id, 0) for branch_id in range(1, 41)]
    publish_events(amqp_url, *events)
    assert len(take_all(amqp_url, 40, 4)) == 40


def test_what_is_lost_twice_comes_behind_what_was_lost_with_it(topology: str) -> None:
    """RabbitMQ returns in order what a lost connection held, but not what is lost a second time."""
    publish_events(topology, *(failed(1, second, "why") for second in range(5)))
    slot = routing.slot_of("branch:1")
    queue = routing.partition_queue(slot % routing.DEFAULT_PARTITIONS)
    assert take(topology, queue, 5) == [0, 1, 2, 3, 4]
    assert take(topology, queue, 1) == [0]
    assert take(topology, queue, 5) == [1, 2, 3, 4, 0]


def take(amqp_url: str, queue: str, count: int) -> list[float]:
    """When the next events began; they are not acked."""
    parameters = pika.URLParameters(amqp_url)
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=count)
        deliveries = channel.consume(queue, inactivity_timeout=PATIENCE_SECONDS)
        bodies = [body for _, _, body in islice(deliveries, count)]
        channel.close()
    events = [wire.decode(body).event for body in bodies]
    starts = [event.started_at for event in events if isinstance(event, MirrorFailed)]
    return [(start - START).total_seconds() for start in starts]


def test_a_broker_that_is_away_is_named(amqp_url: str) -> None:
    """The error has its address but not its password."""
    parameters = connection_parameters("amqp://jane:s3cret@127.0.0.1:1")
    with pytest.raises(
        BrokerUnavailable, match=r"the broker at 127\.0\.0\.1:1 cannot be used"
    ) as error:
        broker_channel(parameters).__enter__()
    assert "s3cret" not in str(error.value)
