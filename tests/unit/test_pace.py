"""When a session looks into the spool."""

import pytest

from mirrorfeed.contract.events import MirrorStarted
from mirrorfeed.publisher.forward.pace import CALLS_SECONDS, LINGER_EVENTS, STALL_SECONDS, Pace
from mirrorfeed.publisher.forward.pipeline import Pipeline
from mirrorfeed.publisher.spool import Spool
from tests.builders import at


class Stage:
    """What a session does with a pace, on a channel that takes everything; `sent` counts."""

    def __init__(self, spool: Spool, *, gather_seconds: float = 0.0) -> None:
        self._spool = spool
        self._pipeline = Pipeline(spool, window=10)
        self._pace = Pace(self._pipeline, gather_seconds=gather_seconds)
        self.sent = 0
        self.lingers = False
        self.lingerings = 0

    def call(self, branch_id: int) -> bool:
        """Whether it makes the session look."""
        with self._spool.writing() as writer:
            writer.append(MirrorStarted(branch_id, at(0)), occurred_at=at(0))
        return self._pace.appended(0.0)

    def look(self) -> None:
        self._pace.begin_look()
        if self._pace.end_look(self._publish()):
            self.lingers = True
            self.lingerings += 1

    def confirm_all(self) -> None:
        self._pipeline.acked(self.sent, multiple=True)
        if self._pace.confirmed(0.0):
            self.look()
        else:
            self._publish()

    def end_lingering(self) -> None:
        assert self.lingers
        self.lingers = False
        if self._pace.end_lingering():
            self.look()

    def _publish(self) -> int:
        before = self.sent
        while (event := self._pipeline.take()) is not None:
            self.sent += 1
            self._pipeline.published(self.sent, event)
        return self.sent - before


@pytest.fixture
def stage(spool: Spool) -> Stage:
    return Stage(spool)


def test_an_event_that_comes_alone_is_sent_at_once(stage: Stage) -> None:
    """The next one, too, once the first is confirmed."""
    for branch_id in (1, 2):
        assert stage.call(branch_id)
        stage.look()
        assert (stage.sent, stage.lingers) == (branch_id, False)
        stage.confirm_all()


def test_only_the_first_of_some_calls_makes_the_session_look(stage: Stage) -> None:
    """It looks once for all that came until then."""
    assert [stage.call(branch_id) for branch_id in (1, 2, 3)] == [True, False, False]
    stage.look()
    assert stage.sent == 3


def test_what_is_called_before_a_confirm_is_sent_after_it(stage: Stage) -> None:
    """No call makes a session look that a confirm will."""
    stage.call(1)
    stage.look()
    assert not stage.call(2)
    assert not stage.call(3)
    assert stage.sent == 1
    stage.confirm_all()
    assert stage.sent == 3


def test_what_is_called_in_quick_succession_is_gathered(stage: Stage) -> None:
    """Neither a call nor a confirm ends the lingering, but its time does."""
    for branch_id in range(LINGER_EVENTS):
        stage.call(1 + branch_id)
    stage.look()
    assert (stage.sent, stage.lingers) == (LINGER_EVENTS, True)
    assert not stage.call(100)
    stage.confirm_all()
    assert not stage.call(101)
    assert stage.sent == LINGER_EVENTS
    stage.end_lingering()
    assert stage.sent == LINGER_EVENTS + 2


def test_a_session_lingers_once_at_a_time(stage: Stage) -> None:
    """What it finds meanwhile, at a poll, does not make it wait for longer."""
    for turn in (1, 2):
        for branch_id in range(LINGER_EVENTS):
            stage.call(turn * 100 + branch_id)
        stage.look()
    assert (stage.sent, stage.lingerings) == (2 * LINGER_EVENTS, 1)


def test_a_session_that_has_lingered_sends_at_once_again(stage: Stage) -> None:
    """If nothing came meanwhile."""
    for branch_id in range(LINGER_EVENTS):
        stage.call(1 + branch_id)
    stage.look()
    stage.confirm_all()
    stage.end_lingering()
    assert stage.call(100)
    stage.look()
    assert stage.sent == LINGER_EVENTS + 1


def test_whoever_asks_for_it_gathers_from_the_second_event_on(spool: Spool) -> None:
    """An event after a silence is sent at once; those that follow it are gathered."""
    stage = Stage(spool, gather_seconds=0.1)
    assert stage.call(1)
    stage.look()
    stage.confirm_all()
    assert not stage.call(2)
    assert not stage.call(3)
    assert stage.sent == 1
    for sent in (3, 3):
        stage.end_lingering()
        stage.confirm_all()
        assert stage.sent == sent
    assert stage.call(4)


def test_a_session_is_stalled_when_no_confirm_came_for_a_second(spool: Spool) -> None:
    """As from a queue without a leader."""
    pace = Pace(Pipeline(spool, window=10))
    pace.confirmed(50.0)
    assert not pace.is_stalled(50.0 + STALL_SECONDS)
    assert pace.is_stalled(50.1 + STALL_SECONDS)


def test_calls_of_just_now_are_given_way(spool: Spool) -> None:
    """Each of them may be followed by another one soon."""
    pace = Pace(Pipeline(spool, window=10))
    assert not pace.is_called(50.0)
    for at_seconds in (50.0, 60.0):
        pace.appended(at_seconds)
        assert pace.is_called(at_seconds + CALLS_SECONDS / 2)
        assert not pace.is_called(at_seconds + CALLS_SECONDS * 2)
