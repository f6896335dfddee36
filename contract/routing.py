"""Where an event goes: pure functions from its type and partition key to names on the broker.

A partition key hashes to one of 64 slots, and a slot belongs to one partition queue. The slot is
part of the routing key, so that the number of partitions can change without touching publishers.
"""

from zlib import crc32

EVENTS_EXCHANGE = "mirror.events"
"""Topic exchange; the only thing a puller may write to."""
DEAD_EXCHANGE = "mirror.dead"
DEAD_QUEUE = "mirror.dead"
"""A net for what policies and `expiration` take from the partition queues, at most once."""
SLOTS = 64
DEFAULT_PARTITIONS = 4


def slot_of(partition_key: str) -> int:
    return crc32(partition_key.encode()) % SLOTS


def routing_key(event_type: str, partition_key: str) -> str:
    """For example `mirror.completed.07`."""
    return f"{event_type}.{slot_of(partition_key):02}"


def partition_queue(partition: int) -> str:
    return f"mirror.events.p{partition}"


def partition_queues(partitions: int) -> list[str]:
    return list(map(partition_queue, range(partitions)))


def interim_queues(partitions: int) -> list[str]:
    """Where the partitions' events go while the number of partitions is changing."""
    return [f"mirror.events.interim.p{partition}" for partition in range(partitions)]


def slots(partition: int, partitions: int) -> list[int]:
    """The slots of one partition."""
    return list(range(partition, SLOTS, partitions))


def bindings(partition: int, partitions: int) -> list[str]:
    """The topic patterns of one partition's slots, for any event type."""
    return [f"*.*.{slot:02}" for slot in slots(partition, partitions)]
