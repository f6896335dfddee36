"""How a command's letters are selected: by number, or by what is known about them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

from mirrorfeed.consumer.dead_letters.store import LetterState, Selection
from mirrorfeed.consumer.errors import UsageError
from mirrorfeed.consumer.sources.overflow import OverflowSelection
from mirrorfeed.contract.events import check_branch_id
from mirrorfeed.contract.reasons import Reason

IdsArgument = Annotated[list[int] | None, typer.Argument(metavar="ID…", help="Letters by number.")]
IdArgument = Annotated[int, typer.Argument(metavar="ID", help="The letter's number.")]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", help="Letters from this source, as `mirror-consumer sources` has it."),
]
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
AllDiscardedOption = Annotated[bool, typer.Option("--all", help="Every letter that was discarded.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would happen, and change nothing.")
]
DiscardedAtOption = Annotated[
    str | None,
    typer.Option(
        "--discarded-at",
        metavar="TIME",
        help="What one `discard` took off the list, at exactly this time, as it said.",
    ),
]
OverflowOption = Annotated[
    bool,
    typer.Option(
        "--overflow",
        help="Messages that were not kept, instead of letters: those beyond the letters that a"
        " source may fill in an hour. Takes --source, --reason, --since and --all.",
    ),
]


def selected(
    ids: Iterable[int] | None,
    source: str | None,
    reason: Reason | None,
    event_type: str | None,
    branch_id: int | None,
    since: str | None,
    limit: int | None,
    state: LetterState = LetterState.DEAD,
    discarded_at: str | None = None,
) -> Selection:
    if branch_id is not None:
        check_branch_id(branch_id)
    return Selection(
        ids=tuple(ids or ()),
        source=source,
        reason=reason,
        type=event_type,
        branch_id=branch_id,
        since=instant("--since", since),
        state=state,
        discarded_at=instant("--discarded-at", discarded_at),
        limit=limit,
    )


def selected_overflow(selection: Selection) -> OverflowSelection:
    """The same of messages that were not kept. Raises UsageError if nothing is known of them that
    it asks for."""
    known = OverflowSelection(
        source=selection.source,
        reason=selection.reason,
        since=selection.since,
        is_discarded=selection.state is LetterState.DISCARDED,
        discarded_at=selection.discarded_at,
    )
    asked = msgspec.structs.replace(
        selection, source=None, reason=None, since=None, discarded_at=None
    )
    if asked not in (Selection(), Selection(state=LetterState.DISCARDED)):
        raise UsageError(
            "of messages that were not kept only the source, the reason and the time are known:"
            " with --overflow, select by --source, --reason or --since"
        )
    return known


def need_selection(selection: Selection, everything: bool) -> None:
    """Raises UsageError if nothing was said of which letters are meant."""
    if selection == Selection(state=selection.state) and not everything:
        raise UsageError("name letters by ID or by an option such as --reason, or give --all")


def instant(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is not a time such as 2026-07-05 or 2026-07-05T19:32+02:00"
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
