"""How a command's letters are selected: by number, or by what is known about them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer

from mirrorfeed.consumer.dead_letters.store import LetterState, Selection
from mirrorfeed.consumer.errors import UsageError
from mirrorfeed.contract.events import check_branch_id
from mirrorfeed.contract.reasons import Reason

IdsArgument = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Letters by number.")]
NeededIdsArgument = Annotated[list[int], typer.Argument(metavar="ID", help="Letters by number.")]
IdArgument = Annotated[int, typer.Argument(metavar="ID", help="The letter's number.")]
ReasonOption = Annotated[
    Reason | None,
    typer.Option(
        "--reason", metavar="REASON", help=f"Letters with this reason: {', '.join(Reason)}."
    ),
]
TypeOption = Annotated[
    str | None, typer.Option("--type", help="Letters of this event type, such as mirror.failed.")
]
BranchOption = Annotated[
    int | None, typer.Option("--branch", metavar="ID", help="Letters about this branch.")
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Letters first seen since this time, such as 2026-07-05 or 2026-07-05T19:32+02:00;"
        " UTC if it has no offset.",
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most this many, oldest first.")
]
AllOption = Annotated[bool, typer.Option("--all", help="Every letter that is dead.")]


def selected(
    ids: Iterable[int] | None,
    reason: Reason | None,
    event_type: str | None,
    branch_id: int | None,
    since: str | None,
    limit: int | None,
    state: LetterState = LetterState.DEAD,
) -> Selection:
    if branch_id is not None:
        check_branch_id(branch_id)
    return Selection(
        ids=tuple(ids or ()),
        reason=reason,
        type=event_type,
        branch_id=branch_id,
        since=None if since is None else since_instant(since),
        state=state,
        limit=limit,
    )


def since_instant(text: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--since {text!r} is not a time such as 2026-07-05 or 2026-07-05T19:32+02:00"
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
