"""Who consumes what."""

from hypothesis import given
from hypothesis import strategies as st

from mirrorfeed.consumer.partitions.assignment import Member, Share, assignment_of, owners
from mirrorfeed.contract.routing import partition_queues

partitions = st.integers(1, 64)
counts = st.integers(1, 20)


def workers(count: int, *, shares: bool = False) -> list[Member]:
    return [
        Member(number, "host", number, Share(number, count) if shares else None, frozenset())
        for number in range(1, count + 1)
    ]


@given(partitions, counts)
def test_workers_share_the_partitions_evenly(partitions: int, count: int) -> None:
    """No two workers differ by more than one, and every partition has one owner."""
    queues = partition_queues(partitions)
    dealt = owners(queues, workers(count))
    owned = [sum(owner == worker for owner in dealt.values()) for worker in workers(count)]
    assert sorted(dealt) == sorted(queues)
    assert max(owned) - min(owned) <= 1


def test_a_share_is_taken_first() -> None:
    """Share I/N gets every N-th partition from the I-th on."""
    queues = partition_queues(4)
    members = workers(2, shares=True)
    assert assignment_of(1, queues, members).own == {queues[0], queues[2]}
    assert assignment_of(2, queues, members).own == {queues[1], queues[3]}


def test_a_share_that_nobody_has_is_dealt_out() -> None:
    """It goes to the workers without a share, or else to all of them."""
    queues = partition_queues(4)
    first, second, _ = workers(3, shares=True)
    free = Member(9, "host", 9, None, frozenset())
    assert assignment_of(9, queues, [first, second, free]).own == {queues[2]}
    assert assignment_of(1, queues, [first, second]).own == {queues[0], queues[2], queues[3]}


def test_a_partition_is_served_once_its_owner_is_subscribed() -> None:
    """Until then the previous worker keeps it."""
    queues = partition_queues(2)
    first, second = workers(2)
    assert assignment_of(1, queues, [first, second]).served == set()
    subscribed = Member(2, "host", 2, None, frozenset({queues[1]}))
    assert assignment_of(1, queues, [first, subscribed]).served == {queues[1]}
