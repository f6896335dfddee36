"""What state a branch is in, to the microsecond, and which branches need attention first."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.consumer.branches.status import BranchState, attempts, branch_states
from mirrorfeed.consumer.database import database_now
from tests.moments import HOUR, MOMENTS, NAMES, NOON, TICK
from tests.servers import register_branches


def attempt(engine: Engine, branch_id: int, start: datetime, outcome: str | None = None) -> None:
    """An attempt, and the branch row that the worker would compute from it."""
    finish = start + timedelta(seconds=143) if outcome else None
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO mirror_attempt (branch_id, started_at, finished_at, outcome)"
                " VALUES (:id, :start, :finish, :outcome)"
            ),
            {"id": branch_id, "start": start, "finish": finish, "outcome": outcome},
        )
        connection.execute(
            text(
                "UPDATE branch SET last_mirror_attempt = greatest(last_mirror_attempt, :start),"
                " last_mirrored = CASE WHEN :outcome = 'completed' THEN :start"
                " ELSE last_mirrored END,"
                " mirror_failures = mirror_failures + (:outcome IS NOT DISTINCT FROM 'failed')::int"
                " WHERE id = :id"
            ),
            {"id": branch_id, "start": start, "outcome": outcome},
        )


def states(engine: Engine, **options: Any) -> dict[int, str]:
    with engine.connect() as connection:
        return {row["id"]: row["state"] for row in branch_states(connection, **options)}


@pytest.mark.parametrize("now", MOMENTS, ids=NAMES)
def test_an_attempt_exactly_at_the_limit_is_not_stuck_yet(
    berlin_engine: Engine, now: datetime
) -> None:
    """A microsecond later it is, even if the local clocks have jumped meanwhile."""
    register_branches(berlin_engine, 1, 2, 3)
    begun = now.astimezone(UTC) - HOUR
    attempt(berlin_engine, 1, begun - TICK)
    attempt(berlin_engine, 2, begun)
    attempt(berlin_engine, 3, begun + TICK)
    with berlin_engine.connect() as connection:
        assert connection.scalar(text("SHOW timezone")) == "Europe/Berlin"
    found = states(berlin_engine, stuck_after=HOUR, now=now)
    assert found == {1: "stuck", 2: "mirroring", 3: "mirroring"}


@pytest.mark.parametrize("now", MOMENTS, ids=NAMES)
def test_a_success_exactly_as_old_as_allowed_is_not_older(
    berlin_engine: Engine, now: datetime
) -> None:
    """A day is 24 hours, even when daylight saving time begins or ends."""
    register_branches(berlin_engine, 1, 2, 3)
    begun = now.astimezone(UTC) - timedelta(days=1)
    attempt(berlin_engine, 1, begun - TICK, "completed")
    attempt(berlin_engine, 2, begun, "completed")
    found = states(berlin_engine, success_older_than=timedelta(days=1), now=now)
    assert found == {3: "never-mirrored", 1: "mirrored"}


def test_only_the_latest_attempt_decides_the_state(engine: Engine) -> None:
    """An attempt that never ended no longer matters once a later one has begun."""
    register_branches(engine, 1)
    attempt(engine, 1, NOON - 9 * HOUR)
    attempt(engine, 1, NOON, "failed")
    assert states(engine, now=NOON) == {1: "failing"}
    attempt(engine, 1, NOON + TICK)
    assert states(engine, now=NOON + HOUR) == {1: "mirroring"}


def test_what_needs_attention_comes_first(engine: Engine) -> None:
    """The order is stuck, failing, never mirrored, in progress, then the oldest success."""
    register_branches(engine, *range(1, 11))
    attempt(engine, 1, NOON - HOUR, "completed")
    attempt(engine, 2, NOON - 2 * HOUR, "completed")
    attempt(engine, 3, NOON)
    attempt(engine, 5, NOON, "failed")
    for minute in range(3):
        attempt(engine, 6, NOON + timedelta(minutes=minute), "failed")
    attempt(engine, 7, NOON - 5 * HOUR)
    attempt(engine, 8, NOON - 6 * HOUR)
    attempt(engine, 9, NOON - HOUR, "completed")
    attempt(engine, 9, NOON, "failed")
    found = states(engine, now=NOON + timedelta(minutes=5))
    assert list(found) == [8, 7, 6, 5, 9, 4, 10, 3, 2, 1]
    assert list(dict.fromkeys(found.values())) == list(BranchState)
    some = states(
        engine, now=NOON + timedelta(minutes=5), states=[BranchState.MIRRORING, BranchState.STUCK]
    )
    assert list(some) == [8, 7, 3]


def test_the_age_of_a_success_is_never_below_zero(engine: Engine) -> None:
    """That holds even if a puller's clock is fast; without a success there is no age."""
    register_branches(engine, 1, 2)
    attempt(engine, 1, NOON, "completed")
    for now, age in ((NOON + HOUR, 3600.0), (NOON - HOUR, 0.0)):
        with engine.connect() as connection:
            never, mirrored = branch_states(connection, now=now)
        assert never["last_success_age_seconds"] is None
        assert mirrored["last_success_age_seconds"] == age


def test_now_is_what_the_database_says(engine: Engine) -> None:
    """It is one instant, in UTC, for everything that a transaction reads."""
    register_branches(engine, 1)
    with engine.begin() as connection:
        now = database_now(connection)
        assert now == database_now(connection)
        assert now.tzinfo is UTC
    attempt(engine, 1, now - HOUR, "completed")
    with engine.connect() as connection:
        (row,) = branch_states(connection)
        assert row["last_success_age_seconds"] == pytest.approx(
            (database_now(connection) - now + HOUR).total_seconds(), abs=0.001
        )


def test_a_time_without_a_zone_is_refused(engine: Engine) -> None:
    """It could be any zone's."""
    with engine.connect() as connection, pytest.raises(ValueError, match="has no time zone"):
        branch_states(connection, now=datetime(2026, 7, 5, 12))


def test_a_history_has_the_latest_attempt_first(engine: Engine) -> None:
    """Each has its duration, except those that have not ended."""
    register_branches(engine, 1, 2)
    attempt(engine, 1, NOON, "failed")
    attempt(engine, 1, NOON + HOUR)
    attempt(engine, 1, NOON - HOUR, "completed")
    attempt(engine, 2, NOON, "completed")
    with engine.connect() as connection:
        found = attempts(connection, 1)
        assert attempts(connection, 1, limit=2) == found[:2]
    assert [(each["started_at"], each["outcome"], each["duration_seconds"]) for each in found] == [
        (NOON + HOUR, None, None),
        (NOON, "failed", 143.0),
        (NOON - HOUR, "completed", 143.0),
    ]
