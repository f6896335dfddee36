"""Where an event goes: pure functions from its type and partition key to names on the broker.

A partition key hashes to one of 64 slots, a slot belongs to one partition queue. The slot is part
of the routing key, so that the number of partitions can change without touching a publisher.
"""

from zlib import crc32

EVENTS_EXCHANGE = "mirror.events"
"""Topic exchange; the only thing a puller may write to."""
DEAD_EXCHANGE = "mirror.dead"
DEAD_QUEUE = "mirror.dead"
"""Where the broker puts what has exceeded the delivery limit."""
SLOTS = 64
DEFAULT_PARTITIONS = 4


def slot_of(partition_key: str) -> int:
    return crc32(partition_key.encode()) % SLOTS


def routing_key(event_type: str, partition_key: str) -> str:
    """For example `mirror.completed.07`."""
    return f"{event_type}.{slot_of(partition_key):02}"


def partition_queue(partition: int) -> str:
    return f"mirror.events.p{partition}"


def bindings(partition: int, partitions: int) -> list[str]:
    """The topic patterns of one partition's slots, whatever the event type."""
    return [f"*.*.{slot:02}" for slot in range(SLOTS) if slot % partitions == partition]


def check_partitions(partitions: int) -> int:
    """The number itself. Raises ValueError where it is not from 1 to 64: a slot is not divided."""
    if not 1 <= partitions <= SLOTS:
        raise ValueError(f"partitions must be from 1 to {SLOTS}, got {partitions}")
    return partitions
