"""`mirror-replay`: what operators do with dead letters."""

import sys
from collections.abc import Sequence
from shutil import copyfileobj
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import Annotated

import msgspec
import typer
from msgspec import structs
from sqlalchemy import Engine

from mirrorfeed.consumer.apply.message import HIGHEST_SEQUENCE, Limits
from mirrorfeed.consumer.branches.mirror_state import Difference
from mirrorfeed.consumer.commands import discard
from mirrorfeed.consumer.commands.letters import (
    SHOWN_BYTES,
    SHOWN_LETTERS,
    document,
    edited,
    first_bytes,
    show_groups,
    show_letter,
    show_list,
    show_operations,
    show_outcomes,
    show_overflow,
)
from mirrorfeed.consumer.commands.options import (
    FUTURE_TOLERANCE_SECONDS,
    DatabaseUrlOption,
    FutureToleranceOption,
    HighestSequenceOption,
    JsonOption,
    limits,
)
from mirrorfeed.consumer.commands.output import plural, progress_bar
from mirrorfeed.consumer.commands.program import (
    caller,
    meaning_to_caller,
    reading,
    ready_engine,
    transaction,
    until_signal,
)
from mirrorfeed.consumer.commands.selection import (
    AllOption,
    BranchOption,
    DryRunOption,
    IdArgument,
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
from mirrorfeed.consumer.database import as_json
from mirrorfeed.consumer.dead_letters import store as letters
from mirrorfeed.consumer.dead_letters import transfer
from mirrorfeed.consumer.dead_letters.edit import edit as edit_letter
from mirrorfeed.consumer.dead_letters.plan import Planned, plan
from mirrorfeed.consumer.dead_letters.replay import Outcome, try_letters
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.consumer.errors import StillDead, UsageError
from mirrorfeed.consumer.operations import store as operations
from mirrorfeed.consumer.operations.perform import apply_planned
from mirrorfeed.consumer.operations.preview import asked_as_document
from mirrorfeed.consumer.sources.overflow import group_overflow
from mirrorfeed.contract import environment, exit_codes
from mirrorfeed.contract.printing import is_output_read, print_json
from mirrorfeed.contract.program import run_program
from mirrorfeed.version import root

PROGRAM = "mirror-replay"

app = typer.Typer(
    help="Deals with dead letters: messages that could not be applied to the database.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(root)
app.add_typer(discard.app)


@app.command("list")
def list_letters(
    ids: IdsArgument = None,
    source: SourceOption = None,
    reason: ReasonOption = None,
    event_type: TypeOption = None,
    branch: BranchOption = None,
    since: SinceOption = None,
    limit: LimitOption = None,
    everything: AllOption = False,
    state: Annotated[
        letters.LetterState, typer.Option(help="Letters in this state.")
    ] = letters.LetterState.DEAD,
    group: Annotated[
        bool, typer.Option("--group", help="Count them by reason and error instead.")
    ] = False,
    group_by: Annotated[
        letters.GroupBy | None, typer.Option("--group-by", help="Count them by this instead.")
    ] = None,
    overflow: OverflowOption = False,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show letters, oldest first. By default all that are dead.

    With --overflow, count the messages that were not kept, by source and reason.

    \b
    Examples:
      mirror-replay list --group
      mirror-replay list --group-by host
      mirror-replay list --reason unknown-branch --since 2026-07-05
    """
    selection = selected(ids, source, reason, event_type, branch, since, limit, state)
    if overflow:
        if group or group_by or state is letters.LetterState.REPLAYED:
            raise UsageError("--overflow excludes --group, --group-by and --state replayed")
        chosen = selected_overflow(selection)
        with reading(database_url) as connection:
            show_overflow(group_overflow(connection, chosen), as_json_document)
        return
    if group or group_by:
        with reading(database_url) as connection:
            groups = letters.group(connection, selection, group_by)
        show_groups(groups, as_json_document)
        return
    if not as_json_document:
        selection = msgspec.structs.replace(selection, limit=limit or SHOWN_LETTERS)
    with reading(database_url) as connection:
        found = list(letters.find(connection, selection))
        total = letters.count(connection, selection)
    if as_json_document:
        print_json({"letters": [document(letter) for letter in found]})
    else:
        show_list(found, total)


@app.command()
def show(
    letter_id: IdArgument,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show all of one letter: what is known about it, its AMQP headers, and its message.

    \b
    Example:
      mirror-replay show 17
    """
    with reading(database_url) as connection:
        letter = letters.get(connection, letter_id, first_bytes=first_bytes(as_json_document))
    show_letter(letter, as_json_document)


@app.command()
def apply(
    ids: IdsArgument = None,
    source: SourceOption = None,
    reason: ReasonOption = None,
    event_type: TypeOption = None,
    branch: BranchOption = None,
    since: SinceOption = None,
    limit: LimitOption = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, max=1e6, metavar="N", help="At most N letters a second."),
    ] = None,
    future_tolerance_seconds: FutureToleranceOption = FUTURE_TOLERANCE_SECONDS,
    highest_sequence: HighestSequenceOption = HIGHEST_SEQUENCE,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Apply dead letters again, ordered by what they are about and then by when that began.

    Takes exactly the letters that match when it starts; later ones wait for the next call. Ctrl-C
    stops it between two transactions. Exits 1 if some remain dead.

    \b
    Examples:
      mirror-replay apply --reason unknown-branch --dry-run
      mirror-replay apply --reason unknown-branch --limit 1
      mirror-replay apply --all --rate 100
    """
    selection = selected(ids, source, reason, event_type, branch, since, limit)
    need_selection(selection, everything)
    engine = ready_engine(database_url)
    with engine.connect() as connection:
        letters.check_ids(
            connection, selection.ids, letters.LetterState.DEAD, letters.LetterState.REPLAYED
        )
        planned = plan(connection, selection)
    believed = limits(future_tolerance_seconds, highest_sequence)
    outcomes: list[Outcome] = []
    if dry_run:
        changes: list[Difference] = []
        with progress_bar() as bar:
            task = bar.add_task("trying", total=len(planned))
            for trial in try_letters(engine, planned, limits=believed):
                outcomes += trial.outcomes
                changes += trial.differences
                bar.advance(task, len(trial.outcomes) + trial.skipped)
        skipped = len(planned) - len(outcomes)
        show_outcomes(outcomes, skipped, as_json_document, changes)
    else:
        outcomes = _carry_out(engine, selection, planned, rate, believed, as_json_document)
    undone = {each.id for each in planned} - {each.id for each in outcomes}
    with engine.connect() as connection:
        still_dead = letters.count(connection, Selection(ids=tuple(undone))) if undone else 0
    if still_dead or any(each.outcome == "dead" for each in outcomes):
        raise typer.Exit(exit_codes.NOT_MET)


def _carry_out(
    engine: Engine,
    selection: Selection,
    planned: Sequence[Planned],
    rate: float | None,
    believed: Limits,
    as_json_document: bool,
) -> list[Outcome]:
    """As an operation that others see and can stop."""
    outcomes: list[Outcome] = []
    done = 0
    try:
        with until_signal() as stopping, progress_bar() as bar:
            task = bar.add_task("applying", total=len(planned))
            for step in apply_planned(
                engine,
                planned,
                caller(),
                stopping,
                asked=asked_as_document(selection),
                rate=rate,
                limits=believed,
            ):
                outcomes += step.outcomes
                done += step.letters
                bar.update(task, completed=done)
    finally:
        show_outcomes(outcomes, done - len(outcomes), as_json_document)
        if done < len(planned):
            rest = plural(len(planned) - done, "letter")
            print(f"{PROGRAM}: stopped; {rest} left as before", file=sys.stderr)
    return outcomes


@app.command("operations")
def list_operations(
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = SHOWN_LETTERS,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show what was done with letters, and with partitions from the page: by whom, and how far it
    is. The latest come first.

    \b
    Example:
      mirror-replay operations
    """
    with reading(database_url) as connection:
        found = operations.latest(connection, limit)
    if as_json_document:
        print_json({"operations": [as_json(structs.asdict(each)) for each in found]})
    else:
        show_operations(found)


@app.command()
def edit(
    letter_id: IdArgument,
    body_file: Annotated[
        typer.FileBinaryRead | None,
        typer.Option(help="The new body; - is standard input. [default: edit in $EDITOR]"),
    ] = None,
    future_tolerance_seconds: FutureToleranceOption = FUTURE_TOLERANCE_SECONDS,
    highest_sequence: HighestSequenceOption = HIGHEST_SEQUENCE,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Replace a letter's body with one that can be applied. The original is kept beside it.

    The letter stays dead until it is applied.

    \b
    Example:
      EDITOR=vi mirror-replay edit 17
    """
    engine = ready_engine(database_url)
    with engine.connect() as connection:
        letter = letters.get(connection, letter_id, first_bytes=SHOWN_BYTES)
        letters.check_ids(connection, [letter_id], letters.LetterState.DEAD)
    body = body_file.read() if body_file is not None else edited(letter)
    believed = limits(future_tolerance_seconds, highest_sequence)
    try:
        edit_letter(engine, letter_id, body, limits=believed)
    except StillDead as error:
        if body_file is not None:
            raise
        with NamedTemporaryFile("wb", suffix=".json", delete=False) as kept:
            kept.write(body)
        raise StillDead(f"{error}; what you wrote is kept in {kept.name}") from None
    with engine.connect() as connection:
        letter = letters.get(connection, letter_id, first_bytes=first_bytes(as_json_document))
    show_letter(letter, as_json_document)
    print(f"{PROGRAM}: next: mirror-replay apply {letter_id}", file=sys.stderr)


@app.command("export")
def export_letters(
    ids: IdsArgument = None,
    source: SourceOption = None,
    reason: ReasonOption = None,
    event_type: TypeOption = None,
    branch: BranchOption = None,
    since: SinceOption = None,
    limit: LimitOption = None,
    everything: AllOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Print complete letters as lines of JSON. By default all that are dead.

    \b
    Example:
      mirror-replay export --reason invalid > letters.jsonl
    """
    selection = selected(ids, source, reason, event_type, branch, since, limit)
    with reading(database_url) as connection:
        for letter in transfer.exported(connection, selection):
            print_json(letter)
            if not is_output_read():
                break


@app.command("import")
def import_letters(
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(help="An exported file; - is standard input.")
    ],
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Add exported letters, as dead. Letters that are already here stay as they are.

    \b
    Example:
      mirror-replay import letters.jsonl
    """
    with TemporaryFile() as lines:
        # Before the transaction begins, because the writer may take its time.
        copyfileobj(file, lines)
        lines.seek(0)
        with transaction(database_url) as connection:
            new, there = transfer.import_lines(connection, lines)
    if as_json_document:
        print_json({"imported": new, "already_there": there})
    else:
        print(f"{plural(new, 'letter')} imported, {there:,} already here")


def main() -> None:
    """The console script."""
    run_program(app, PROGRAM, meaning_to_caller)
