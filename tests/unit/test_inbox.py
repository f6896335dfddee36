"""Batches: natural, in order, and a suspect for itself."""

import threading

from consumer.inbox import Delivery, Inbox
from tests.builders import messages, started


def delivery(tag: int, delivered_before: int = 0) -> Delivery:
    (message,) = messages(started(1, tag))
    return Delivery(message, "mirror.events.p0", tag, delivered_before)


def tags(batch: list[Delivery]) -> list[int]:
    return [each.delivery_tag for each in batch]


def test_a_batch_is_what_has_arrived() -> None:
    """Up to the batch size, in order of arrival."""
    inbox = Inbox(batch_size=3)
    for tag in range(1, 6):
        inbox.put(delivery(tag))
    assert tags(inbox.take()) == [1, 2, 3]
    assert tags(inbox.take()) == [4, 5]


def test_a_message_that_saw_two_workers_end_goes_alone() -> None:
    """It can only take itself along; one redelivery alone makes nothing suspect."""
    inbox = Inbox(batch_size=10)
    for tag, delivered_before in enumerate([0, 1, 2, 2, 0], start=1):
        inbox.put(delivery(tag, delivered_before))
    assert [tags(inbox.take()) for _ in range(4)] == [[1, 2], [3], [4], [5]]


def test_closing_wakes_who_waits_and_gives_nothing_out() -> None:
    """What waits goes back to the broker."""
    inbox = Inbox(batch_size=10)
    batches: list[list[Delivery]] = []
    thread = threading.Thread(target=lambda: batches.append(inbox.take()))
    thread.start()
    inbox.close()
    thread.join(10)
    inbox.put(delivery(1))
    batches.append(inbox.take())
    assert batches == [[], []]


def test_a_batch_in_hand_is_not_idle() -> None:
    """Until the next one is asked for, which is after its commit."""
    inbox = Inbox(batch_size=10)
    assert inbox.is_idle
    inbox.put(delivery(1))
    assert not inbox.is_idle
    inbox.take()
    assert not inbox.is_idle
