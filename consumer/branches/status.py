"""What the branch table says, in the form that people and programs want."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, column, select, table, text

from mirrorfeed.consumer.database import age_seconds, database_now, duration_seconds, in_utc
from mirrorfeed.consumer.tables import MirrorAttempt

STUCK_AFTER = timedelta(hours=1)
SOURCE = table("source", column("id"), column("uri"), column("hostname"))


class BranchState(StrEnum):
    """What a branch's latest attempt says; what needs attention most comes first."""

    STUCK = "stuck"
    FAILING = "failing"
    NEVER_MIRRORED = "never-mirrored"
    MIRRORING = "mirroring"
    MIRRORED = "mirrored"


# A branch's state is that of its latest attempt.
WITH_STATE = """
    WITH branch_with_state AS (
        SELECT branch.*, CASE
            WHEN latest.started_at IS NULL THEN 'never-mirrored'
            WHEN latest.outcome = 'completed' THEN 'mirrored'
            WHEN latest.outcome = 'failed' THEN 'failing'
            WHEN latest.started_at < CAST(:stuck_since AS timestamptz) THEN 'stuck'
            ELSE 'mirroring' END AS state, source.hostname
        FROM branch
        LEFT JOIN LATERAL (
            SELECT started_at, outcome, source_id FROM mirror_attempt
            WHERE branch_id = branch.id
            ORDER BY started_at DESC LIMIT 1
        ) latest ON true
        LEFT JOIN source ON source.id = latest.source_id
        WHERE (CAST(:branch_id AS bigint) IS NULL OR branch.id = :branch_id)
            AND (CAST(:hostname AS text) IS NULL OR source.hostname = :hostname)
    )
"""
BRANCHES_WITH_STATE = text(f"""{WITH_STATE}
    SELECT * FROM branch_with_state
    WHERE state = ANY (CAST(:states AS text[])) AND (
        CAST(:success_before AS timestamptz) IS NULL
        OR last_mirrored IS NULL OR last_mirrored < :success_before
    )
    ORDER BY
        pg_catalog.array_position(CAST(:ranking AS text[]), state),
        CASE state WHEN 'stuck' THEN last_mirror_attempt END,
        mirror_failures DESC,
        last_mirrored NULLS FIRST,
        id
""")

COUNT_STATES = text(f"""{WITH_STATE}
    SELECT state, count(*) AS branches FROM branch_with_state GROUP BY state
""")
COUNT_STALE = text("""
    SELECT (SELECT count(*) FROM branch WHERE last_mirrored IS NULL OR last_mirrored < before)
    FROM pg_catalog.unnest(CAST(:before AS timestamptz[])) WITH ORDINALITY AS given (before, place)
    ORDER BY place
""")


def count_states(
    connection: Connection, *, stuck_after: timedelta = STUCK_AFTER
) -> dict[BranchState, int]:
    """How many branches have each state."""
    stuck_since = database_now(connection) - stuck_after
    rows = connection.execute(
        COUNT_STATES, {"branch_id": None, "hostname": None, "stuck_since": stuck_since}
    )
    found = {row.state: int(row.branches) for row in rows}
    return {state: found.get(state, 0) for state in BranchState}


def count_stale(connection: Connection, older_than: Iterable[timedelta]) -> list[int]:
    """How many branches had no success for each of these durations."""
    now = database_now(connection)
    return list(connection.scalars(COUNT_STALE, {"before": [now - each for each in older_than]}))


def branch_states(
    connection: Connection,
    branch_id: int | None = None,
    *,
    stuck_after: timedelta = STUCK_AFTER,
    states: Collection[BranchState] = (),
    hostname: str | None = None,
    success_older_than: timedelta | None = None,
    now: datetime | None = None,
) -> list[dict[str, Any]]:
    """The columns of one branch or of all, with a `state` (`stuck` if an attempt has not ended
    within `stuck_after`), `last_success_age_seconds`, and the `hostname` of who reported the latest
    attempt, None if that is not known.

    Ordered by need for attention: by state, then longest stuck, most failures, oldest success.
    `states`, `hostname` and `success_older_than` leave out all other branches; a branch that never
    succeeded counts as older than anything. `now` is the database's time unless given.
    """
    now = database_now(connection) if now is None else in_utc(now)
    rows = connection.execute(
        BRANCHES_WITH_STATE,
        {
            "branch_id": branch_id,
            "hostname": hostname,
            "stuck_since": now - stuck_after,
            "states": [str(state) for state in states or BranchState],
            "success_before": None if success_older_than is None else now - success_older_than,
            "ranking": [str(state) for state in BranchState],
        },
    )
    return [_with_age(row._mapping, now) for row in rows]


def _with_age(row: Mapping[Any, Any], now: datetime) -> dict[str, Any]:
    last = row["last_mirrored"]
    return {**row, "last_success_age_seconds": None if last is None else age_seconds(now, last)}


def attempts(
    connection: Connection,
    branch_id: int,
    limit: int | None = None,
    *,
    before: datetime | None = None,
) -> list[dict[str, Any]]:
    """A branch's attempts, latest first, with the `source` that reported each and its `hostname`,
    None if they are not known, and `duration_seconds`, None for an attempt that has not ended.
    With `before`, only those that started before then.

    Measured by the host's clock, so it is negative if that was set back meanwhile.
    """
    query = (
        select(
            MirrorAttempt.started_at,
            MirrorAttempt.finished_at,
            MirrorAttempt.outcome,
            MirrorAttempt.revision_id,
            MirrorAttempt.failure_reason,
            SOURCE.c.uri.label("source"),
            SOURCE.c.hostname,
        )
        .outerjoin(SOURCE, SOURCE.c.id == MirrorAttempt.source_id)
        .where(MirrorAttempt.branch_id == branch_id)
        .order_by(MirrorAttempt.started_at.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(MirrorAttempt.started_at < before)
    rows = connection.execute(query)
    return [
        {**row._mapping, "duration_seconds": duration_seconds(row.started_at, row.finished_at)}
        for row in rows
    ]
