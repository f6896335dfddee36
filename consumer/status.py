"""What the branch table says, as people and programs want to read it."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, exists, func, select, text

from consumer.tables import Branch, MirrorAttempt
from contract.wire import timestamp

STUCK_AFTER = timedelta(hours=1)


class State(StrEnum):
    """What a branch's latest attempt says; first what needs attention most."""

    STUCK = "stuck"
    FAILING = "failing"
    NEVER_MIRRORED = "never-mirrored"
    MIRRORING = "mirroring"
    MIRRORED = "mirrored"


# A branch's state is that of its latest attempt.
BRANCHES_WITH_STATE = text("""
    WITH branch_with_state AS (
        SELECT branch.*, CASE
            WHEN latest.started_at IS NULL THEN 'never-mirrored'
            WHEN latest.outcome = 'completed' THEN 'mirrored'
            WHEN latest.outcome = 'failed' THEN 'failing'
            WHEN latest.started_at < CAST(:stuck_since AS timestamptz) THEN 'stuck'
            ELSE 'mirroring' END AS state
        FROM branch
        LEFT JOIN LATERAL (
            SELECT started_at, outcome FROM mirror_attempt
            WHERE branch_id = branch.id
            ORDER BY started_at DESC LIMIT 1
        ) latest ON true
        WHERE CAST(:branch_id AS bigint) IS NULL OR branch.id = :branch_id
    )
    SELECT * FROM branch_with_state
    WHERE state = ANY (CAST(:states AS text[])) AND (
        CAST(:success_before AS timestamptz) IS NULL
        OR last_mirrored IS NULL OR last_mirrored < :success_before
    )
    ORDER BY
        array_position(CAST(:ranking AS text[]), state),
        CASE state WHEN 'stuck' THEN last_mirror_attempt END,
        mirror_failures DESC,
        last_mirrored NULLS FIRST,
        id
""")


def database_now(connection: Connection) -> datetime:
    """The time by the database's clock, which is the same wherever a command runs; it stands still
    within a transaction."""
    now: datetime = connection.execute(select(func.now())).scalar_one()
    return now.astimezone(UTC)


def in_utc(instant: datetime) -> datetime:
    """The same instant. Raises ValueError for a time without a zone, which could be any."""
    if instant.utcoffset() is None:
        raise ValueError(f"the time {instant.isoformat()} has no time zone: give its offset")
    return instant.astimezone(UTC)


def age_seconds(now: datetime, since: datetime) -> float:
    """How long ago that was; 0 for what a fast clock has put into the future."""
    return max(0.0, round((now - since).total_seconds(), 3))


def branch_states(
    connection: Connection,
    branch_id: int | None = None,
    *,
    stuck_after: timedelta = STUCK_AFTER,
    states: Collection[State] = (),
    success_older_than: timedelta | None = None,
    now: datetime | None = None,
) -> list[dict[str, Any]]:
    """The columns of one branch or of all, with a `state` (`stuck` for an attempt that has not
    ended within `stuck_after`) and `last_success_age_seconds`.

    First what needs attention: by state, then what is stuck for longest, what failed most often,
    what succeeded longest ago. `states` and `success_older_than` leave out the others; a branch
    that never succeeded is older than anything. `now` is the database's time unless given.
    """
    now = database_now(connection) if now is None else in_utc(now)
    rows = connection.execute(
        BRANCHES_WITH_STATE,
        {
            "branch_id": branch_id,
            "stuck_since": now - stuck_after,
            "states": [str(state) for state in states or State],
            "success_before": None if success_older_than is None else now - success_older_than,
            "ranking": [str(state) for state in State],
        },
    )
    return [_with_age(row._mapping, now) for row in rows]


def _with_age(row: Mapping[Any, Any], now: datetime) -> dict[str, Any]:
    last = row["last_mirrored"]
    return {**row, "last_success_age_seconds": None if last is None else age_seconds(now, last)}


def is_registered(connection: Connection, branch_id: int) -> bool:
    return bool(connection.scalar(select(exists().where(Branch.id == branch_id))))


def attempts(
    connection: Connection, branch_id: int, limit: int | None = None
) -> list[dict[str, Any]]:
    """A branch's attempts, the latest first, with `duration_seconds`, None for one that has no end.

    As its host's clock measured it: below zero where that was set back meanwhile.
    """
    rows = connection.execute(
        select(
            MirrorAttempt.started_at,
            MirrorAttempt.finished_at,
            MirrorAttempt.outcome,
            MirrorAttempt.revision_id,
            MirrorAttempt.failure_reason,
        )
        .where(MirrorAttempt.branch_id == branch_id)
        .order_by(MirrorAttempt.started_at.desc())
        .limit(limit)
    )
    return [
        {**row._mapping, "duration_seconds": duration_seconds(row.started_at, row.finished_at)}
        for row in rows
    ]


def duration_seconds(start: datetime, end: datetime | None) -> float | None:
    return None if end is None else (end - start).total_seconds()


MirrorState = Mapping[str, Any]
"""The mirror columns of one branch, by name."""

MIRROR_COLUMNS = (
    Branch.last_mirror_attempt,
    Branch.last_mirrored,
    Branch.last_mirrored_id,
    Branch.mirror_failures,
    Branch.mirror_status_message,
)


class Difference(Struct, frozen=True):
    """A branch whose mirror columns something has changed, or would."""

    branch_id: int
    before: MirrorState
    after: MirrorState

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.branch_id,
            "before": as_json(self.before),
            "after": as_json(self.after),
        }


def mirror_states(connection: Connection, branch_ids: Collection[int]) -> dict[int, MirrorState]:
    """The mirror columns of those of the branches that are registered, by id."""
    rows = connection.execute(
        select(Branch.id, *MIRROR_COLUMNS).where(Branch.id.in_(branch_ids)).order_by(Branch.id)
    )
    return {
        row.id: {name: value for name, value in row._mapping.items() if name != "id"}
        for row in rows
    }


def differences(
    before: Mapping[int, MirrorState], after: Mapping[int, MirrorState]
) -> list[Difference]:
    return [
        Difference(branch_id, before[branch_id], after[branch_id])
        for branch_id in before
        if before[branch_id] != after[branch_id]
    ]


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same with instants as RFC 3339 in UTC."""
    return {
        name: timestamp(value) if isinstance(value, datetime) else value
        for name, value in row.items()
    }
