"""Branches that come from another system with what it knew of them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.branches.takeover import KnownState, take_over
from mirrorfeed.contract.events import InvalidEvent
from tests.builders import at, completed, failed, messages, started
from tests.reference import BranchState
from tests.servers import fresh_branch_ids, register_branches, rows, state_of

DAY = 86_400.0
seconds = st.integers(0, int(DAY))


@st.composite
def states(draw: st.DrawFn) -> KnownState:
    """Whatever a history may have led to."""
    failures = draw(st.integers(0, 5))
    success = draw(st.none() | seconds)
    latest = draw(st.none() | seconds) if success is None else success + draw(seconds)
    if latest is None or latest == success:
        failures = 0
    return KnownState(
        last_mirror_attempt=None if latest is None else at(latest),
        last_mirrored=None if success is None else at(success),
        last_mirrored_id=None if success is None else draw(st.none() | st.just("rev-1")),
        mirror_failures=failures,
        mirror_status_message=draw(st.none() | st.just("why")) if failures else None,
    )


def known(state: KnownState) -> BranchState:
    return BranchState(
        state.last_mirror_attempt,
        state.last_mirrored,
        state.last_mirrored_id,
        state.mirror_failures,
        state.mirror_status_message,
    )


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states())
def test_a_branch_has_the_state_it_had(engine: Engine, state: KnownState) -> None:
    """From there one more failure counts, and a success counts from its start."""
    branch_id = next(fresh_branch_ids)
    register_branches(engine, branch_id)
    with engine.begin() as connection:
        take_over(connection, {branch_id: state})
    assert state_of(engine, branch_id) == known(state)
    Applier(engine).apply(messages(failed(branch_id, 3 * DAY, "after the move")))
    after = state_of(engine, branch_id)
    assert after.mirror_failures == state.mirror_failures + 1
    assert after.last_mirrored == state.last_mirrored
    assert after.mirror_status_message == "after the move"
    Applier(engine).apply(messages(completed(branch_id, 4 * DAY, "rev-2")))
    assert state_of(engine, branch_id) == BranchState(at(4 * DAY), at(4 * DAY), "rev-2")


def test_a_state_is_taken_over_once(engine: Engine) -> None:
    """A branch that has attempts keeps what they say, however often the file is imported."""
    register_branches(engine, 1, 2)
    state = KnownState(at(0), mirror_failures=3, mirror_status_message="old")
    Applier(engine).apply(messages(started(2, 5)))
    with engine.begin() as connection:
        assert take_over(connection, {1: state, 2: state}) == 1
        assert take_over(connection, {1: state, 2: state}) == 0
    assert state_of(engine, 1).mirror_failures == 3
    assert state_of(engine, 2) == BranchState(at(5))
    assert rows(engine, "SELECT count(*) FROM mirror_attempt WHERE branch_id = 1") == [(3,)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"last_mirrored": at(0)}, "last_mirror_attempt is missing"),
        ({"mirror_failures": 2}, "last_mirror_attempt is missing"),
        ({"last_mirror_attempt": at(0), "last_mirrored": at(1)}, "is after"),
        ({"last_mirrored_id": "x"}, "without last_mirrored"),
        ({"mirror_status_message": "x", "last_mirror_attempt": at(0)}, "mirror_failures is 0"),
        ({"mirror_failures": -1}, "-1"),
        ({"last_mirror_attempt": at(0), "last_mirrored": at(0), "mirror_failures": 1}, "no room"),
        ({"last_mirror_attempt": datetime(2026, 1, 1)}, "time zone"),
        ({"mirror_status_message": "a\0b", "mirror_failures": 1}, "NUL"),
    ],
)
def test_a_state_that_nothing_leads_to_is_refused(values: dict[str, object], words: str) -> None:
    """The error says what is wrong with it."""
    with pytest.raises(InvalidEvent, match=words):
        KnownState(**values)  # type: ignore[arg-type]


def test_any_offset_is_an_instant() -> None:
    """It is kept in UTC."""
    moscow = datetime.fromisoformat("2007-07-05 23:32:01+04")
    assert KnownState(moscow).last_mirror_attempt == datetime(2007, 7, 5, 19, 32, 1, tzinfo=UTC)
    assert moscow.utcoffset() == timedelta(hours=4)
