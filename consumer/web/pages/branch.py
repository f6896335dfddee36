"""One branch: how it is, its attempts, its letters, and the way that its events take."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request

from mirrorfeed.consumer.branches.listing import recent_attempts
from mirrorfeed.consumer.branches.register import find
from mirrorfeed.consumer.branches.status import attempts, branch_states
from mirrorfeed.consumer.database import database_now, duration_seconds
from mirrorfeed.consumer.dead_letters import store as letters
from mirrorfeed.consumer.dead_letters.store import LetterState, late_letters
from mirrorfeed.consumer.web import query
from mirrorfeed.consumer.web.charts import Bar, chart
from mirrorfeed.consumer.web.context import Context, Page
from mirrorfeed.consumer.web.pages.rows import of_attempts
from mirrorfeed.consumer.web.partitions import place_of
from mirrorfeed.consumer.words import exact_span

SHOWN_ATTEMPTS = 50
DRAWN_ATTEMPTS = 60
SHOWN_LETTERS = 10


def read(context: Context, request: Request) -> Page:
    """Raises UnknownBranches, ValueError for what is no id, and SQLAlchemyError."""
    branch_id = query.identifier("the branch", request.path_params["branch_id"])
    before = query.instant(request.query_params, "before")

    def read_branch(connection: Connection) -> tuple[datetime, dict[str, Any]]:
        now = database_now(connection)
        find(connection, str(branch_id))
        (branch,) = branch_states(
            connection, branch_id, stuck_after=context.settings.patience.stuck_after, now=now
        )
        found = attempts(connection, branch_id, SHOWN_ATTEMPTS + 1, before=before)
        recent = recent_attempts(connection, [branch_id], DRAWN_ATTEMPTS)[branch_id]
        told = letters.of_branch(connection, branch_id, SHOWN_LETTERS)
        late = late_letters(connection, branch_id) if LetterState.REPLAYED in told else {}
        document = {
            "branch": {**branch, **of_attempts(recent, branch["last_mirrored_id"])},
            "recent": [
                {
                    "started_at": each["started_at"],
                    "outcome": each["outcome"],
                    "duration_seconds": duration_seconds(each["started_at"], each["finished_at"]),
                }
                for each in reversed(recent)
            ],
            "attempts": [
                {**each, "late": late.get(each["started_at"])} for each in found[:SHOWN_ATTEMPTS]
            ],
            "next": found[SHOWN_ATTEMPTS - 1]["started_at"].isoformat()
            if len(found) > SHOWN_ATTEMPTS
            else None,
            "letters": {
                "dead": told[LetterState.DEAD][0] if LetterState.DEAD in told else 0,
                "latest": [dict(row._mapping) for _, latest in told.values() for row in latest],
            },
        }
        return now, document

    now, document = context.read(("branch", branch_id, before), read_branch)
    document = {**document, "place": place_of(branch_id, context.watch.latest())}
    extra = {"drawing": _drawing(document["recent"]), "is_first": before is None}
    return Page("branch.html", document["branch"]["unique_name"], now, document, extra)


def _drawing(recent: list[dict[str, Any]]) -> object:
    """How long each of the latest attempts took; one that has not ended is as long as the
    longest."""
    lengths = [max(0.0, each["duration_seconds"] or 0.0) for each in recent]
    longest = max(lengths, default=0.0) or 1.0
    kinds = {"completed": "ok", "failed": "failed", None: "open"}
    bars = [
        Bar(
            [
                (
                    kinds[each["outcome"]],
                    longest if each["outcome"] is None else max(length, longest / 40),
                )
            ],
            f"{each['started_at']:%Y-%m-%d %H:%M} UTC: {each['outcome'] or 'has not ended'}"
            + ("" if each["outcome"] is None else f", {exact_span(length)}"),
        )
        for each, length in zip(recent, lengths, strict=True)
    ]
    bars[:0] = [Bar([], "no attempt")] * (DRAWN_ATTEMPTS - len(bars))
    failed = sum(each["outcome"] == "failed" for each in recent)
    return chart(bars, f"How long the latest {len(recent)} attempts took; {failed} of them failed")
