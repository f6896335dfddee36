"""How each fault is done and healed. Each function returns once it is over."""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from random import Random
from uuid import uuid4

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from mirrorfeed.amqp.connections import BrokerUnavailable
from mirrorfeed.contract import routing, wire
from mirrorfeed.contract.events import Envelope, ScriptRun
from sandbox import wait_until
from sandbox.cluster import PrivateCluster
from sandbox.rabbitmq import PrivateRabbitMQ
from tests.builders import START
from tests.faults.campaign.proxy import Proxy
from tests.faults.campaign.schedule import WORKERS, Fault, Kind
from tests.faults.campaign.stand import Puller, Stand
from tests.servers import rows

CALM_SECONDS = 120.0
"""How long workers may take to subscribe again after a fault; they back off up to 30 s."""
KEPT_SECONDS = 3.0
"""RabbitMQ 3.10 may never find a leader again for a quorum queue whose only node is killed within a
second of its declaration, and a client has no way to find out when that second is over."""
DUPLICATES = 100
RESERVED_BYTES = 4 * 1024**2
"""Less than the spool leaves free, so that calls are refused while the forwarder goes on."""
WATERMARK = "512MB"


class FaultFailed(Exception):
    """A fault could not be done, or what it broke did not recover."""


def kill_worker(stand: Stand, fault: Fault) -> None:
    worker = stand.workers[fault.target % len(stand.workers)]
    worker.kill()
    hold(stand, fault)
    worker.start()


def freeze_worker(stand: Stand, fault: Fault) -> None:
    worker = stand.workers[fault.target % len(stand.workers)]
    worker.freeze()
    hold(stand, fault)
    worker.thaw()


def kill_puller(stand: Stand, fault: Fault) -> None:
    service = puller_of(stand, fault).service
    service.kill()
    hold(stand, fault)
    service.start()


def freeze_puller(stand: Stand, fault: Fault) -> None:
    service = puller_of(stand, fault).service
    service.freeze()
    hold(stand, fault)
    service.thaw()


def step_clock(stand: Stand, fault: Fault) -> None:
    skew_seconds = round((2 * fault.amount - 1) * stand.max_skew_seconds)
    puller_of(stand, fault).board.skew_seconds = skew_seconds


def fill_disk(stand: Stand, fault: Fault) -> None:
    """Fills it to the last byte, or until calls are refused but the forwarder can still write."""
    if stand.disk is None:
        return
    ballast = stand.disk / "ballast"
    left = RESERVED_BYTES if fault.amount < 0.5 else 0
    # In pieces, because the spool grows meanwhile; the last ones are one page each.
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while (room := free_bytes(stand.disk) - left) > 0:
            file.write(bytes(min(room, 1024**2)))
        while not left:
            file.write(bytes(4096))
    hold(stand, fault)
    ballast.unlink()


def free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def kill_broker(stand: Stand, fault: Fault) -> None:
    """All of it, as by a power cut."""
    restart(stand, fault, stand.nodes[0])


def kill_node(stand: Stand, fault: Fault) -> None:
    restart(stand, fault, stand.nodes[fault.target % len(stand.nodes)])


def kill_leader(stand: Stand, fault: Fault) -> None:
    queue = routing.partition_queue(fault.target % stand.partitions)
    restart(stand, fault, cluster_of(stand).leader_of(queue))


def freeze_node(stand: Stand, fault: Fault) -> None:
    """Perhaps for longer than the others wait for it. Afterwards it must rejoin the cluster."""
    cluster = cluster_of(stand)
    node = cluster.nodes[fault.target % len(cluster.nodes)]
    node.freeze()
    hold(stand, fault)
    node.thaw()
    wait_until(lambda: cluster.is_whole, CALM_SECONDS, "a thawed node to rejoin")


def raise_memory_alarm(stand: Stand, fault: Fault) -> None:
    node = stand.nodes[fault.target % len(stand.nodes)]
    node.control("set_vm_memory_high_watermark", "absolute", "1MB")
    hold(stand, fault)
    node.control("set_vm_memory_high_watermark", "absolute", WATERMARK)


def kill_database(stand: Stand, fault: Fault) -> None:
    stand.database.kill()
    hold(stand, fault)
    stand.database.start()


def cut_connections(stand: Stand, fault: Fault) -> None:
    disturb(stand, fault, Proxy.cut)


def slow_connections(stand: Stand, fault: Fault) -> None:
    disturb(stand, fault, lambda proxy: proxy.delay(0.01 + 0.2 * fault.amount))


def deaden_connections(stand: Stand, fault: Fault) -> None:
    disturb(stand, fault, Proxy.swallow)


def disturb(stand: Stand, fault: Fault, how: Callable[[Proxy], None]) -> None:
    for proxy in stand.proxies[fault.way]:
        how(proxy)
    hold(stand, fault)
    for proxy in stand.proxies[fault.way]:
        proxy.heal()


def publish_duplicates(stand: Stand, fault: Fault) -> None:
    """Publishes events again, in any order, that are or were in their queues. Fewer if the broker
    is down."""
    random = Random(fault.amount)
    bodies = puller_of(stand, fault).confirmed(random, DUPLICATES)
    with suppress(BrokerUnavailable, pika.exceptions.AMQPError), stand.admin_channel() as channel:
        for body in bodies:
            envelope = wire.decode(body)
            key = routing.routing_key(envelope.event.TYPE, envelope.partition_key)
            publish(channel, routing.EVENTS_EXCHANGE, key, body)


def delete_queue(stand: Stand, fault: Fault) -> None:
    """What a deleted queue holds is lost, so it is emptied first: nothing more is routed to it, and
    everything in it is committed. Pullers hold its events, and a worker must bring back the queue
    and its bindings."""
    partition = fault.target % stand.partitions
    queue = routing.partition_queue(partition)
    wait_until(lambda: has_all_workers(stand), CALM_SECONDS, "every worker to be subscribed")
    with stand.admin_channel() as channel:
        for pattern in routing.bindings(partition, stand.partitions):
            channel.queue_unbind(queue, routing.EVENTS_EXCHANGE, pattern)
        # When the second one is published, nobody can still be routing by the old bindings.
        for _ in range(2):
            probe(stand, channel, queue)
        lost = channel.queue_delete(queue).method.message_count
    if lost:
        raise FaultFailed(f"the campaign itself lost {lost} messages by deleting {queue} too early")
    wait_until(lambda: has_all_workers(stand), CALM_SECONDS, f"a worker to bring {queue} back")
    stand.ended.wait(KEPT_SECONDS)


def probe(stand: Stand, channel: BlockingChannel, queue: str) -> None:
    """Returns once everything in the queue is committed: the probe comes last."""
    ran_at = START + timedelta(days=1, seconds=len(stand.probes))
    run = ScriptRun("probe", "campaign", ran_at, ran_at)
    body = wire.encode(Envelope(str(uuid4()), "/campaign", ran_at, run))
    stand.probes.append(run)
    publish(channel, "", queue, body)
    query = f"SELECT 1 FROM script_activity WHERE name = 'probe' AND date_started = '{ran_at}'"
    wait_until(lambda: bool(rows(stand.engine, query)), CALM_SECONDS, "a probe to be applied")


def publish(channel: BlockingChannel, exchange: str, routing_key: str, body: bytes) -> None:
    properties = pika.BasicProperties(content_type=wire.CONTENT_TYPE, delivery_mode=2)
    channel.basic_publish(exchange, routing_key, body, properties)


def has_all_workers(stand: Stand) -> bool:
    """Whether every worker is consuming. Each is subscribed to the dead queue; of a partition queue
    the broker counts only the active consumer."""
    needed = {routing.DEAD_QUEUE: WORKERS}
    needed |= {routing.partition_queue(partition): 1 for partition in range(stand.partitions)}
    try:
        with stand.admin_channel() as channel:
            return all(
                channel.queue_declare(queue, passive=True).method.consumer_count == count
                for queue, count in needed.items()
            )
    except BrokerUnavailable:
        return False


def restart(stand: Stand, fault: Fault, node: PrivateRabbitMQ) -> None:
    node.kill()
    hold(stand, fault)
    node.start()


def hold(stand: Stand, fault: Fault) -> None:
    """Leaves it broken for a while."""
    stand.ended.wait(fault.seconds)


def puller_of(stand: Stand, fault: Fault) -> Puller:
    return stand.pullers[fault.target % len(stand.pullers)]


def cluster_of(stand: Stand) -> PrivateCluster:
    assert stand.cluster is not None
    return stand.cluster


DOING: dict[Kind, Callable[[Stand, Fault], None]] = {
    Kind.WORKER_KILLED: kill_worker,
    Kind.WORKER_FROZEN: freeze_worker,
    Kind.PULLER_KILLED: kill_puller,
    Kind.PULLER_FROZEN: freeze_puller,
    Kind.CLOCK_STEPPED: step_clock,
    Kind.DISK_FULL: fill_disk,
    Kind.BROKER_KILLED: kill_broker,
    Kind.MEMORY_ALARM: raise_memory_alarm,
    Kind.LEADER_KILLED: kill_leader,
    Kind.NODE_KILLED: kill_node,
    Kind.NODE_FROZEN: freeze_node,
    Kind.DATABASE_KILLED: kill_database,
    Kind.CONNECTIONS_CUT: cut_connections,
    Kind.CONNECTIONS_SLOW: slow_connections,
    Kind.CONNECTIONS_DEAD: deaden_connections,
    Kind.QUEUE_DELETED: delete_queue,
    Kind.DUPLICATES: publish_duplicates,
}
