"""What the branch table says, as people and programs want to read it."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, select, text

from consumer.tables import Branch
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
