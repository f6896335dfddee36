"""What the branch table says, as people and programs want to read it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from contract.wire import timestamp

STUCK_AFTER = timedelta(hours=1)

# A branch's state is that of its latest attempt.
BRANCHES_WITH_STATE = text("""
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
    ORDER BY branch.id
""")


def branch_states(
    connection: Connection, branch_id: int | None = None, *, stuck_after: timedelta = STUCK_AFTER
) -> list[dict[str, Any]]:
    """The columns of one branch or of all, with a `state`: never-mirrored, mirroring, mirrored,
    failing, or stuck for an attempt that has not ended within `stuck_after`."""
    rows = connection.execute(
        BRANCHES_WITH_STATE,
        {"branch_id": branch_id, "stuck_since": datetime.now(UTC) - stuck_after},
    )
    return [dict(row._mapping) for row in rows]


def as_json(branches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with instants as RFC 3339 in UTC."""
    return [
        {
            name: timestamp(value) if isinstance(value, datetime) else value
            for name, value in branch.items()
        }
        for branch in branches
    ]
