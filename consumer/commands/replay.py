"""`mirror-replay`: what operators do with dead letters."""

import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from tempfile import NamedTemporaryFile
from types import FrameType
from typing import Annotated, Any

import click
import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from sqlalchemy import Row

from mirrorfeed.consumer.branches.mirror_state import Difference
from mirrorfeed.consumer.commands.letters import (
    SHOWN_LETTERS,
    document,
    in_lines,
    show_groups,
    show_letter,
    show_list,
    show_outcomes,
    text_of,
)
from mirrorfeed.consumer.commands.options import (
    FUTURE_TOLERANCE_SECONDS,
    DatabaseUrlOption,
    FutureToleranceOption,
    JsonOption,
)
from mirrorfeed.consumer.commands.output import plural, print_json
from mirrorfeed.consumer.commands.program import EXIT_NOT_MET, ready_engine, run_app, transaction
from mirrorfeed.consumer.dead_letters import replay, transfer
from mirrorfeed.consumer.dead_letters import store as letters
from mirrorfeed.consumer.dead_letters.replay import Outcome, Replay, StillDead
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.consumer.errors import ConditionNotMet
from mirrorfeed.contract import environment
from mirrorfeed.contract.events import check_branch_id
from mirrorfeed.contract.reasons import Reason

PROGRAM = "mirror-replay"

app = typer.Typer(
    help="Deals with dead letters: messages that could not be applied to the database.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

IdsArgument = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Letters by number.")]
NeededIdsArgument = Annotated[list[int], typer.Argument(metavar="ID", help="Letters by number.")]
IdArgument = Annotated[int, typer.Argument(metavar="ID", help="The letter's number.")]
ReasonOption = Annotated[Reason | None, typer.Option("--reason", help="Letters with this reason.")]
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


@app.command("list")
def list_letters(
    ids: IdsArgument = None,
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
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show letters, oldest first. By default all that are dead.

    \b
    Examples:
      mirror-replay list --group
      mirror-replay list --reason unknown-branch --since 2026-07-05
    """
    selection = selected(ids, reason, event_type, branch, since, limit, state)
    if group:
        with transaction(database_url) as connection:
            groups = letters.group(connection, selection)
        show_groups(groups, as_json_document)
        return
    if not as_json_document:
        selection = msgspec.structs.replace(selection, limit=limit or SHOWN_LETTERS)
    with transaction(database_url) as connection:
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
    with transaction(database_url) as connection:
        letter = letters.get(connection, letter_id)
    show_letter(letter, as_json_document)


@app.command()
def apply(
    ids: IdsArgument = None,
    reason: ReasonOption = None,
    event_type: TypeOption = None,
    branch: BranchOption = None,
    since: SinceOption = None,
    limit: LimitOption = None,
    everything: AllOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen, and change nothing.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, max=1e6, metavar="N", help="At most N letters a second."),
    ] = None,
    future_tolerance_seconds: FutureToleranceOption = FUTURE_TOLERANCE_SECONDS,
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
    selection = selected(ids, reason, event_type, branch, since, limit)
    if selection == Selection() and not everything:
        raise ValueError("name letters by ID or by an option such as --reason, or give --all")
    engine = ready_engine(database_url)
    with engine.connect() as connection:
        letters.check_ids(
            connection, selection.ids, letters.LetterState.DEAD, letters.LetterState.REPLAYED
        )
        planned = replay.plan(connection, selection)
    outcomes: list[Outcome] = []
    changes: list[Difference] = []
    skipped = 0
    tolerance = timedelta(seconds=future_tolerance_seconds)
    replayed = Replay(engine, planned, dry_run=dry_run, future_tolerance=tolerance)
    try:
        with until_signal() as stopping, progress_bar() as bar:
            task = bar.add_task("applying", total=len(planned))
            for step in replayed.run(stopping, rate=rate):
                outcomes += step.outcomes
                changes += step.differences
                skipped += step.skipped
                bar.update(task, completed=len(outcomes) + skipped)
    finally:
        show_outcomes(outcomes, changes, skipped, dry_run, as_json_document)
        if len(outcomes) + skipped < len(planned):
            rest = len(planned) - len(outcomes) - skipped
            print(f"{PROGRAM}: stopped; {plural(rest, 'letter')} left as before", file=sys.stderr)
    undone = {each.id for each in planned} - {each.id for each in outcomes}
    with engine.connect() as connection:
        still_dead = letters.count(connection, Selection(ids=tuple(undone))) if undone else 0
    if still_dead or any(each.outcome == "dead" for each in outcomes):
        raise typer.Exit(EXIT_NOT_MET)


@app.command()
def edit(
    letter_id: IdArgument,
    body_file: Annotated[
        typer.FileBinaryRead | None,
        typer.Option(help="The new body; - is standard input. [default: edit in $EDITOR]"),
    ] = None,
    future_tolerance_seconds: FutureToleranceOption = FUTURE_TOLERANCE_SECONDS,
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
        letter = letters.get(connection, letter_id)
        letters.check_ids(connection, [letter_id], letters.LetterState.DEAD)
    body = body_file.read() if body_file is not None else edited(letter)
    tolerance = timedelta(seconds=future_tolerance_seconds)
    try:
        letter = replay.edit(engine, letter_id, body, future_tolerance=tolerance)
    except StillDead as error:
        if body_file is not None:
            raise
        with NamedTemporaryFile("wb", suffix=".json", delete=False) as kept:
            kept.write(body)
        raise StillDead(f"{error}; what you wrote is kept in {kept.name}") from None
    show_letter(letter, as_json_document)
    print(f"{PROGRAM}: next: mirror-replay apply {letter_id}", file=sys.stderr)


@app.command()
def discard(
    ids: NeededIdsArgument,
    note: Annotated[str, typer.Option(help="Why they do not matter.")],
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Take letters off the list because they do not matter. They are kept, and can be restored.

    \b
    Example:
      mirror-replay discard 17 18 --note "sent by a test"
    """
    if not note.strip():
        raise ValueError("--note must say why the letters do not matter")
    with transaction(database_url) as connection:
        letters.discard(connection, ids, note)


@app.command()
def restore(
    ids: NeededIdsArgument, database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL
) -> None:
    """Put discarded letters back on the list.

    \b
    Example:
      mirror-replay restore 17
    """
    with transaction(database_url) as connection:
        letters.restore(connection, ids)


@app.command("export")
def export_letters(
    ids: IdsArgument = None,
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
    selection = selected(ids, reason, event_type, branch, since, limit)
    with transaction(database_url) as connection:
        for line in transfer.export_lines(connection, selection):
            sys.stdout.buffer.write(line + b"\n")


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
    lines = list(file)  # before the transaction begins, because the writer may take its time
    with transaction(database_url) as connection:
        new, there = transfer.import_lines(connection, lines)
    if as_json_document:
        print_json({"imported": new, "already_there": there})
    else:
        print(f"{plural(new, 'letter')} imported, {there:,} already here")


def main() -> None:
    """The console script."""
    run_app(app, PROGRAM)


def selected(
    ids: Iterable[int] | None,
    reason: Reason | None,
    event_type: str | None,
    branch_id: int | None,
    since: str | None,
    limit: int | None,
    state: letters.LetterState = letters.LetterState.DEAD,
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
        raise ValueError(
            f"--since {text!r} is not a time such as 2026-07-05 or 2026-07-05T19:32+02:00"
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


@contextmanager
def until_signal() -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM sets the event; the second one ends the process as usual."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        signal.signal(number, previous[signal.Signals(number)])

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, stop) for number in signals}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def progress_bar() -> Progress:
    return Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())


def edited(letter: Row[Any]) -> bytes:
    """The body as the operator changed it in their editor."""
    text = text_of(bytes(letter.body))
    if text is None:
        raise ConditionNotMet(
            "the body is not UTF-8: write the new one to a file, and give --body-file"
        )
    try:
        new = click.edit(in_lines(text), extension=".json")
    except click.ClickException as error:
        raise ConditionNotMet(f"{error.message}; set $EDITOR, or give --body-file") from error
    except UnicodeDecodeError as error:
        raise ConditionNotMet(
            f"the editor did not save UTF-8 ({error}): give --body-file"
        ) from error
    if new is None:
        raise ConditionNotMet(f"nothing was changed: letter {letter.id} is as it was")
    return new.strip().encode()
