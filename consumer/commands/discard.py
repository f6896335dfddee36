"""`mirror-replay discard` and `restore`: letters that do not matter, or do after all."""

from collections.abc import Mapping
from typing import Annotated

import typer
from sqlalchemy import Connection

from mirrorfeed.consumer.commands.options import DatabaseUrlOption, JsonOption, checked_note
from mirrorfeed.consumer.commands.output import plural
from mirrorfeed.consumer.commands.program import caller, transaction
from mirrorfeed.consumer.commands.selection import (
    AllDiscardedOption,
    AllOption,
    BranchOption,
    DiscardedAtOption,
    DryRunOption,
    IdsArgument,
    LimitOption,
    OverflowOption,
    ReasonOption,
    SinceOption,
    SourceOption,
    TypeOption,
    need_selection,
    selected,
    selected_overflow,
)
from mirrorfeed.consumer.database import database_now
from mirrorfeed.consumer.dead_letters import store as letters
from mirrorfeed.consumer.dead_letters.store import LetterState, Selection
from mirrorfeed.consumer.operations import store as operations
from mirrorfeed.consumer.operations.perform import DONE_WITH
from mirrorfeed.consumer.operations.preview import asked_as_document
from mirrorfeed.consumer.operations.store import Kind, State
from mirrorfeed.consumer.sources.overflow import discard_overflow, restore_overflow
from mirrorfeed.contract import environment
from mirrorfeed.contract.printing import print_json
from mirrorfeed.contract.wire import timestamp

FEW = 10
"""So many letters are named to undo what was done with them; of more, the time is."""

app = typer.Typer(rich_markup_mode=None)


@app.command()
def discard(
    note: Annotated[str, typer.Option(help="Why they do not matter.")],
    ids: IdsArgument = None,
    source: SourceOption = None,
    reason: ReasonOption = None,
    event_type: TypeOption = None,
    branch: BranchOption = None,
    since: SinceOption = None,
    limit: LimitOption = None,
    everything: AllOption = False,
    overflow: OverflowOption = False,
    dry_run: DryRunOption = False,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Take letters off the list because they do not matter. They are kept, and can be restored.

    With --overflow, the audit no longer counts messages that were not kept.

    \b
    Examples:
      mirror-replay discard 17 18 --note "sent by a test"
      mirror-replay discard --source /pullers/vostok/UUID \\
        --note "a flood on 5 July"
      mirror-replay discard --overflow --all --note "the same"
    """
    selection = selected(ids, source, reason, event_type, branch, since, limit)
    need_selection(selection, everything)
    checked_note(note)
    chosen = selected_overflow(selection) if overflow else None
    done: list[int] = []
    with transaction(database_url) as connection:
        now = timestamp(database_now(connection))
        if chosen:
            count = discard_overflow(connection, chosen, note)
        else:
            done = letters.discard(connection, selection, note)
            count = len(done)
            _record(connection, Kind.DISCARD, selection, done, note)
        if dry_run:
            connection.rollback()
    which = " ".join(map(str, done)) if 0 < count == len(done) <= FEW else f"--discarded-at {now}"
    undo = f"mirror-replay restore {'--overflow ' if overflow else ''}{which}"
    if as_json_document:
        _print_document("discarded", count, None if overflow else done, dry_run, {"undo": undo})
    elif dry_run:
        print(f"dry run: {_named(count, overflow)} would be discarded")
    else:
        taking_back = f"; to take that back: {undo}" if count else ""
        print(f"{_named(count, overflow)} discarded{taking_back}")


@app.command()
def restore(
    ids: IdsArgument = None,
    source: SourceOption = None,
    reason: ReasonOption = None,
    event_type: TypeOption = None,
    branch: BranchOption = None,
    since: SinceOption = None,
    limit: LimitOption = None,
    discarded_at: DiscardedAtOption = None,
    everything: AllDiscardedOption = False,
    overflow: OverflowOption = False,
    dry_run: DryRunOption = False,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Put discarded letters back on the list. The note stays.

    With --overflow, discarded messages that were not kept count in the audit again.

    \b
    Examples:
      mirror-replay restore 17
      mirror-replay restore --discarded-at 2026-07-05T19:32:01.123456Z
    """
    selection = selected(
        ids,
        source,
        reason,
        event_type,
        branch,
        since,
        limit,
        LetterState.DISCARDED,
        discarded_at,
    )
    need_selection(selection, everything)
    chosen = selected_overflow(selection) if overflow else None
    done: list[int] = []
    with transaction(database_url) as connection:
        if chosen:
            count = restore_overflow(connection, chosen)
        else:
            done = letters.restore(connection, selection)
            count = len(done)
            _record(connection, Kind.RESTORE, selection, done)
        if dry_run:
            connection.rollback()
    if as_json_document:
        _print_document("restored", count, None if overflow else done, dry_run)
    elif dry_run:
        print(f"dry run: {_named(count, overflow)} would be restored")
    else:
        print(f"{_named(count, overflow)} restored")


def _record(
    connection: Connection,
    kind: Kind,
    selection: Selection,
    done: list[int],
    note: str | None = None,
) -> None:
    """As an operation that is over."""
    if done:
        operations.begin(
            connection,
            kind,
            asked_as_document(selection),
            [(letter_id, b"") for letter_id in done],
            caller(),
            state=State.DONE,
            note=note,
            outcome=DONE_WITH[kind],
        )


def _named(count: int, overflow: bool) -> str:
    return f"{plural(count, 'message')} not kept" if overflow else plural(count, "letter")


def _print_document(
    what: str,
    count: int,
    ids: list[int] | None,
    dry_run: bool,
    also: Mapping[str, str] | None = None,
) -> None:
    document: dict[str, object] = {what: count}
    if ids is not None:
        document["letters"] = ids
    if dry_run:
        document["dry_run"] = True
    elif count:
        document.update(also or {})
    print_json(document)
