"""Batches: natural, in order, and a suspect for itself."""

from concurrent.futures import ThreadPoolExecutor, wait

from mirrorfeed.consumer.worker.inbox import Delivery, Inbox, Subscription, Suspect
from sandbox import wait_until
from tests.builders import messages, started

TIMEOUT_SECONDS = 10.0


def delivery(tag: int, is_suspect: bool = False) -> Delivery:
    (message,) = messages(started(1, tag))
    suspect = Suspect(message.body, properties=None)
    subscription = Subscription("mirror.events.p0", prefetch=1)
    size_bytes = len(message.body)
    return Delivery(suspect if is_suspect else message, subscription, tag, size_bytes, is_suspect)


def tags(batch: list[Delivery]) -> list[int]:
    return [each.delivery_tag for each in batch]


def test_a_batch_is_what_has_arrived() -> None:
    """It holds at most the batch size, in order of arrival."""
    inbox = Inbox(batch_size=3)
    for tag in range(1, 6):
        inbox.put(delivery(tag))
    assert tags(inbox.take()) == [1, 2, 3]
    assert tags(inbox.take()) == [4, 5]


def test_messages_that_were_delivered_before_go_by_themselves() -> None:
    """One of them may have ended a worker, and must not take any others along."""
    inbox = Inbox(batch_size=10)
    for tag, is_suspect in enumerate([False, False, True, True, False], start=1):
        inbox.put(delivery(tag, is_suspect))
    assert [tags(inbox.take()) for _ in range(3)] == [[1, 2], [3, 4], [5]]


def test_closing_wakes_who_waits_and_gives_nothing_out() -> None:
    """Whatever is still in the inbox goes back to the broker."""
    inbox = Inbox(batch_size=10)
    inbox.put(delivery(1))
    with ThreadPoolExecutor(1) as threads:
        taking = threads.submit(lambda: [inbox.take(), inbox.take()])
        wait_until(lambda: inbox.is_idle, TIMEOUT_SECONDS, "the second batch to be asked for")
        inbox.close()
        is_woken = bool(wait([taking], TIMEOUT_SECONDS).done)
        inbox.put(delivery(2))  # wakes the thread if closing did not
        assert is_woken
        first, second = taking.result()
    assert (tags(first), second) == ([1], [])
    assert inbox.take() == []


def test_a_batch_in_hand_is_not_idle() -> None:
    """It is in hand until the next one is asked for, which is after its commit."""
    inbox = Inbox(batch_size=10)
    assert inbox.is_idle
    inbox.put(delivery(1))
    assert not inbox.is_idle
    inbox.take()
    assert not inbox.is_idle
