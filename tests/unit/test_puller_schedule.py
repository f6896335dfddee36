"""When a branch is due, and which branch is next."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorfeed.puller.schedule import (
    MAX_BACKOFF_SECONDS,
    Known,
    Queue,
    due_by_the_clock,
    pause_after,
    wait_after,
)

HOUR = 3600.0
DAY = 24 * HOUR
YEAR = 365 * DAY
NOW = 1_800_000_000.0


def middle(low: float, high: float) -> float:
    return (low + high) / 2


def test_a_branch_is_mirrored_every_interval_more_or_less() -> None:
    """Ten per cent either way, so that branches do not stay together."""
    waits = [
        wait_after(HOUR, 0, is_first=False, draw=random.Random(seed).uniform) for seed in range(99)
    ]
    assert 0.9 * HOUR <= min(waits) < 0.93 * HOUR
    assert 1.07 * HOUR < max(waits) <= 1.1 * HOUR


def test_a_new_list_is_spread_over_the_interval() -> None:
    """From the second mirror on: all first ones come at once, as the places allow."""
    waits = [
        wait_after(HOUR, 0, is_first=True, draw=random.Random(seed).uniform) for seed in range(99)
    ]
    quarters = Counter(int(4 * wait / HOUR) for wait in waits)
    assert sorted(quarters) == [0, 1, 2, 3]
    assert min(quarters.values()) > 9


def test_a_failing_branch_waits_longer_each_time_but_is_never_given_up() -> None:
    """Twice as long, up to a day."""
    waits = [
        wait_after(HOUR, failures, is_first=True, draw=middle) / HOUR
        for failures in (1, 2, 3, 4, 5, 99, 10**9)
    ]
    assert waits == pytest.approx([2, 4, 8, 16, 24, 24, 24])
    assert wait_after(7 * DAY, 3, is_first=False, draw=middle) == pytest.approx(7 * DAY)


def test_what_is_due_stays_due_over_a_restart() -> None:
    """By the clock on the wall."""
    known = Known(due_at=NOW + 600, attempted_at=NOW - HOUR + 600)
    assert due_by_the_clock(known, NOW, HOUR, 0, middle) == known
    assert due_by_the_clock(known, NOW + HOUR, HOUR, 0, middle) == known
    assert due_by_the_clock(None, NOW, HOUR, 0, middle).due_at == NOW


def test_a_clock_that_was_set_back_stops_nothing_and_starts_no_herd() -> None:
    """The branches are due within one interval, spread."""
    dues = [
        due_by_the_clock(
            Known(NOW + HOUR, NOW), NOW - DAY, HOUR, 0, random.Random(seed).uniform
        ).due_at
        for seed in range(99)
    ]
    assert NOW - DAY <= min(dues) < NOW - DAY + HOUR / 4
    assert NOW - DAY + 3 * HOUR / 4 < max(dues) <= NOW - DAY + HOUR


def test_the_new_wait_after_a_clock_was_set_back_is_kept() -> None:
    """A pass from cron must not begin to wait anew each time."""
    first = due_by_the_clock(Known(NOW + HOUR, NOW), NOW - YEAR, HOUR, 0, middle)
    again = due_by_the_clock(first, NOW - YEAR + HOUR / 4, HOUR, 0, middle)
    assert again == first


def test_a_shorter_interval_counts_at_once() -> None:
    """What was said under the longer one does not."""
    known = Known(due_at=NOW + DAY, attempted_at=NOW)
    assert due_by_the_clock(known, NOW, HOUR, 0, middle).due_at == pytest.approx(NOW + 1.1 * HOUR)
    assert due_by_the_clock(known, NOW, HOUR, 9, middle).due_at == NOW + DAY


@given(
    due=st.floats(-YEAR, 2 * YEAR),
    attempted=st.floats(-YEAR, YEAR),
    interval=st.floats(1, 30 * DAY),
    failures=st.integers(0, 10**6),
)
def test_no_clock_makes_a_branch_wait_for_longer_than_its_longest_wait(
    due: float, attempted: float, interval: float, failures: int
) -> None:
    """Whatever was stored."""
    known = Known(NOW + due, NOW + attempted)
    found = due_by_the_clock(known, NOW, interval, failures, middle)
    assert found.due_at - NOW <= 1.1 * max(MAX_BACKOFF_SECONDS, interval) + 60 * 1.1


def test_a_host_that_asks_for_less_is_left_alone_for_longer_each_time() -> None:
    """From a quarter of an hour to six hours."""
    assert [pause_after(pauses) / 60 for pauses in (1, 2, 3, 4, 5, 6, 99)] == [
        *(15, 30, 60, 120, 240, 360, 360)
    ]


def taken(queue: Queue, now: float) -> list[int]:
    found = []
    while (branch_id := queue.take(now)) is not None:
        found.append(branch_id)
    return found


def test_the_branch_that_is_due_for_longest_is_next() -> None:
    """Those that are not due yet wait."""
    queue = Queue(per_host=9)
    for branch_id, due_at in ((1, 30.0), (2, 10.0), (3, 20.0), (4, 99.0)):
        queue.put(branch_id, "h", due_at)
    assert queue.next_at() == 10.0
    assert taken(queue, 50.0) == [2, 3, 1]
    assert queue.next_at() == 99.0
    assert len(queue) == 1


def test_a_slow_host_does_not_hold_up_others() -> None:
    """It has two places, and its branches wait for these."""
    queue = Queue(per_host=2)
    for branch_id in range(10):
        queue.put(branch_id, "slow", float(branch_id))
    for branch_id in range(10, 13):
        queue.put(branch_id, "other", float(branch_id))
    assert taken(queue, 50.0) == [0, 1, 10, 11]
    assert queue.next_at() is None
    queue.done(10)
    assert taken(queue, 50.0) == [12]
    queue.done(1)
    assert taken(queue, 50.0) == [2]


def test_files_have_as_many_places_as_there_are() -> None:
    """No host has to be spared."""
    queue = Queue(per_host=1)
    for branch_id in range(5):
        queue.put(branch_id, "", 0.0)
    assert len(taken(queue, 1.0)) == 5


def test_a_paused_host_is_left_alone_until_its_time_has_come() -> None:
    """And no other."""
    queue = Queue(per_host=2)
    queue.put(1, "h", 0.0)
    queue.put(2, "other", 1.0)
    queue.pause("h", 100.0)
    assert taken(queue, 50.0) == [2]
    assert queue.is_paused("h", 50.0)
    assert queue.next_at() == 100.0
    assert taken(queue, 100.0) == [1]


def test_a_branch_is_in_the_queue_once() -> None:
    """What is put again has a new time and perhaps another host; what is removed is gone."""
    queue = Queue(per_host=2)
    queue.put(1, "h", 0.0)
    queue.put(1, "other", 60.0)
    queue.put(2, "h", 0.0)
    queue.remove(2)
    assert taken(queue, 50.0) == []
    assert queue.next_at() == 60.0
    assert taken(queue, 60.0) == [1]
    assert queue.is_running(1)


@given(st.data())
def test_no_host_ever_has_more_than_its_places(data: st.DataObject) -> None:
    """Whatever happens in which order, and nobody is forgotten."""
    queue = Queue(per_host=2)
    running: dict[int, str] = {}
    waiting: dict[int, str] = {}
    now = 0.0
    for _ in range(data.draw(st.integers(1, 60))):
        match data.draw(st.sampled_from(["put", "take", "done", "remove", "pause", "wait"])):
            case "put":
                branch_id = data.draw(st.integers(1, 8))
                host = data.draw(st.sampled_from("abc"))
                if branch_id not in running:
                    queue.put(branch_id, host, now + data.draw(st.integers(-2, 2)))
                    waiting[branch_id] = host
            case "take":
                if (found := queue.take(now)) is not None:
                    running[found] = waiting.pop(found)
            case "done" if running:
                branch_id = data.draw(st.sampled_from(sorted(running)))
                queue.done(branch_id)
                del running[branch_id]
            case "remove" if waiting:
                branch_id = data.draw(st.sampled_from(sorted(waiting)))
                queue.remove(branch_id)
                del waiting[branch_id]
            case "pause":
                queue.pause(data.draw(st.sampled_from("abc")), now + data.draw(st.integers(0, 3)))
            case "wait":
                now += 1
        assert max(Counter(running.values()).values(), default=0) <= 2
        assert len(queue) == len(waiting)
    for branch_id in list(running):
        queue.done(branch_id)
    served = set()
    while (found := queue.take(now + 100)) is not None:
        served.add(found)
        queue.done(found)
    assert served == waiting.keys()
