"""Where events go."""

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from mirrorfeed.contract import routing


def test_known_keys_have_known_slots() -> None:
    """crc32 never changes, so publishers and consumers of all versions agree."""
    assert routing.slot_of("branch:1") == 8
    assert routing.routing_key("mirror.completed", "branch:1") == "mirror.completed.08"
    assert routing.slot_of("script:größe") == 28


@given(key=st.text(st.characters(codec="utf-8")), partitions=st.integers(1, 64))
def test_every_event_is_bound_to_exactly_one_partition(key: str, partitions: int) -> None:
    """For any number of partitions, a key always goes to the same single queue."""
    name = routing.routing_key("mirror.failed", key)
    takers = [
        partition
        for partition in range(partitions)
        if any(fnmatchcase(name, pattern) for pattern in routing.bindings(partition, partitions))
    ]
    assert takers == [routing.slot_of(key) % partitions]
