"""Branches as a page shows them, with what their latest attempts say."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from mirrorfeed.consumer.branches.listing import recent_attempts
from mirrorfeed.consumer.branches.status import BranchState
from mirrorfeed.consumer.branches.survey import LATEST
from mirrorfeed.consumer.database import duration_seconds


def with_attempts(
    connection: Connection, branches: Sequence[Mapping[str, Any]], now: datetime
) -> list[dict[str, Any]]:
    """The branches with `label` (the state, or `stale`), the `attempts` of late, the earliest
    first, and from these `hostname`, `success_share`, `mean_seconds` of those that completed, and
    `revision_changed_at`, with `revision_is_older` if it changed even before that."""
    attempts = recent_attempts(connection, [branch["id"] for branch in branches], LATEST)
    return [_row(branch, attempts[branch["id"]]) for branch in branches]


def _row(branch: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    is_stale = branch["is_stale"] and branch["state"] == BranchState.MIRRORED
    return {
        **{name: value for name, value in branch.items() if name != "place"},
        "label": "stale" if is_stale else branch["state"],
        "hostname": attempts[0]["hostname"] if attempts else None,
        **of_attempts(attempts, branch["last_mirrored_id"]),
        "attempts": [
            {
                "started_at": each["started_at"],
                "outcome": each["outcome"],
                "duration_seconds": duration_seconds(each["started_at"], each["finished_at"]),
            }
            for each in reversed(attempts)
        ],
    }


def of_attempts(attempts: Sequence[Mapping[str, Any]], revision: str | None) -> dict[str, Any]:
    """What the latest attempts, the latest first, say of the branch."""
    finished = [each for each in attempts if each["outcome"] is not None]
    completed = [each for each in finished if each["outcome"] == "completed"]
    # A clock that was set back makes some negative.
    lengths = [
        max(0.0, (each["finished_at"] - each["started_at"]).total_seconds()) for each in completed
    ]
    same = []
    for each in completed:
        if each["revision_id"] != revision:
            break
        same.append(each)
    return {
        "success_share": len(completed) / len(finished) if finished else None,
        "mean_seconds": sum(lengths) / len(lengths) if lengths else None,
        "revision_changed_at": same[-1]["started_at"] if same else None,
        "revision_is_older": len(same) == len(completed),
    }
