"""The mirror columns of branches, before and after a change."""

from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, select

from mirrorfeed.consumer.database import as_json
from mirrorfeed.consumer.tables import Branch

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
    """A branch with columns that changed, or would change."""

    branch_id: int
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.branch_id,
            "before": as_json(self.before),
            "after": as_json(self.after),
        }


def mirror_states(connection: Connection, branch_ids: Collection[int]) -> dict[int, MirrorState]:
    """The mirror columns by branch id, for those branches that are registered."""
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
