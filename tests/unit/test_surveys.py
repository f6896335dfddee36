"""The survey that viewers share: who waits for it, and what they see meanwhile."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event
from typing import Any

import pytest

from mirrorfeed.consumer.branches.survey import Survey
from mirrorfeed.consumer.web.reading import page_engine
from mirrorfeed.consumer.web.surveys import EFFORT, LATE_SECONDS, Surveys

ENGINE = page_engine("postgresql://nobody@127.0.0.1:1/none")
"""Never connected to."""


class Maker:
    """Makes surveys of nothing, which take ten seconds of a time of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.made: list[Survey] = []
        self.may_end = Event()
        self.may_end.set()
        self.has_begun = Event()
        self.error: Exception | None = None
        monkeypatch.setattr("mirrorfeed.consumer.web.surveys.survey", self)
        monkeypatch.setattr("mirrorfeed.consumer.web.surveys.monotonic", lambda: self.now)

    def __call__(self, *_: Any) -> Survey:
        self.has_begun.set()
        self.may_end.wait(30)
        if self.error is not None:
            raise self.error
        self.now += 10.0
        self.made.append(Survey(datetime.now(UTC), iter(())))
        return self.made[-1]


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    return Maker(monkeypatch)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def test_viewers_share_a_survey_for_as_long_as_it_is_worth(
    maker: Maker, threads: ThreadPoolExecutor
) -> None:
    """Then it is still shown while the next one is made."""
    surveys = Surveys(ENGINE, threads)
    first = surveys.latest()
    maker.now = 1000.0 + 10.0 / EFFORT - 1
    assert [surveys.latest(), *maker.made] == [first, first]
    maker.now += 2
    maker.may_end.clear()
    assert surveys.latest() is surveys.latest() is first
    maker.may_end.set()
    threads.submit(int).result()  # after the next survey
    assert len(maker.made) == 2
    assert surveys.latest() is maker.made[1]


def test_nobody_waits_long_for_the_first_survey(
    maker: Maker, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none until it is made; whoever asks meanwhile begins no other."""
    monkeypatch.setattr("mirrorfeed.consumer.web.surveys.WAIT_SECONDS", 0.01)
    surveys = Surveys(ENGINE, threads)
    maker.may_end.clear()
    assert surveys.latest() is surveys.latest() is None
    maker.may_end.set()
    threads.submit(int).result()
    assert [surveys.latest()] == maker.made


def test_only_the_first_who_asks_waits(
    maker: Maker, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others see at once that there is none yet."""
    monkeypatch.setattr("mirrorfeed.consumer.web.surveys.WAIT_SECONDS", 30)
    surveys = Surveys(ENGINE, threads)
    maker.may_end.clear()
    with ThreadPoolExecutor(1) as viewers:
        first = viewers.submit(surveys.latest)
        assert maker.has_begun.wait(30)
        assert surveys.latest() is None
        assert not first.done()
        maker.may_end.set()
        assert [first.result(30)] == maker.made


def test_a_survey_outlives_one_that_fails(maker: Maker, threads: ThreadPoolExecutor) -> None:
    """Only if there is none, whoever asks gets the error."""
    surveys = Surveys(ENGINE, threads)
    maker.error = ValueError("away")
    with pytest.raises(ValueError, match="away"):
        surveys.latest()
    maker.error = None
    first = surveys.latest()
    maker.error = ValueError("away")
    maker.now += 10.0 / EFFORT + LATE_SECONDS
    assert first is not None
    assert surveys.latest() is first
