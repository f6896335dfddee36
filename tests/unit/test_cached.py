"""What is kept at hand is never older than it may be."""

import threading
from collections.abc import Callable

import pytest

from mirrorfeed.contract.cached import Cached
from tests.servers import wait_for


def cached(read: Callable[[], int], max_age_seconds: float = 3600) -> Cached[int]:
    return Cached("it", read, interval_seconds=0.01, max_age_seconds=max_age_seconds)


def test_it_is_asked_again_and_again() -> None:
    """Until the block has ended; before, nothing is known."""
    numbers = iter(range(1_000_000))
    subject = cached(lambda: next(numbers))
    assert subject.latest() is None
    with subject:
        wait_for(lambda: (subject.latest() or 0) > 3, "a few answers")


def test_an_answer_counts_until_it_is_too_old(caplog: pytest.LogCaptureFixture) -> None:
    """Although nobody answers any more; the log says so once."""
    answers = iter([17])
    with cached(lambda: next(answers), max_age_seconds=0.5) as subject:
        wait_for(lambda: subject.latest() == 17, "the answer")
        wait_for(lambda: subject.latest() is None, "its end")
    assert [each.message for each in caplog.records] == ["it is away; trying again"]


def test_nobody_waits_for_an_answer() -> None:
    """Neither whoever wants it, nor whoever ends the block."""
    answered = threading.Event()

    def read() -> int:
        answered.wait(60)
        return 17

    with cached(read) as subject:
        assert subject.latest() is None
    assert not answered.is_set()
    answered.set()
