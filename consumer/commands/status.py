"""`mirror-consumer status` and `history`: how the branches are."""

import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from msgspec import Struct
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from sqlalchemy.exc import DBAPIError
from typer.core import TyperCommand

from mirrorfeed.consumer.branches.status import (
    STUCK_AFTER,
    BranchState,
    attempts,
    branch_states,
    is_registered,
)
from mirrorfeed.consumer.commands.options import (
    MAX_SECONDS,
    DatabaseUrlOption,
    JsonOption,
    duration,
)
from mirrorfeed.consumer.commands.output import (
    TIME,
    exact_span,
    in_one_line,
    print_json,
    print_table,
    printable,
    span,
    terminal_table,
)
from mirrorfeed.consumer.commands.program import message_of, ready_engine, transaction
from mirrorfeed.consumer.database import DatabaseUnavailable, as_json, database_now
from mirrorfeed.consumer.errors import ConditionNotMet
from mirrorfeed.contract import environment
from mirrorfeed.contract.events import check_branch_id

WATCH_SECONDS = "2"
SHOWN_ATTEMPTS = 100
"""How much of a long list a person is shown; programs get all of it."""
CELLS_WITH_REVISIONS = 100
"""On a narrower terminal, failure messages need the room."""
SHORTENED = ("name", "revision", "message")

app = typer.Typer(rich_markup_mode=None)


class WatchCommand(TyperCommand):
    """Allows --watch with or without a number, which Typer does not support."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        return super().make_context(info_name, with_watch_seconds(args), *rest, **extra)


class Reading(Struct, frozen=True):
    """What `status` has read, and when."""

    branches: list[dict[str, Any]]
    now: datetime


@app.command(cls=WatchCommand)
def status(
    branch_id: Annotated[
        int | None, typer.Argument(metavar="ID", help="The branch's number. [default: all]")
    ] = None,
    states: Annotated[
        list[BranchState] | None,
        typer.Option("--state", help="Only branches in this state. Can be repeated."),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Only branches whose last success began longer ago than this, such as 90s, 15m, 6h"
            " or 2d, or that never had one.",
        ),
    ] = None,
    stuck_after_seconds: Annotated[
        float,
        typer.Option(
            min=0, max=MAX_SECONDS, help="After this long an unfinished attempt counts as stuck."
        ),
    ] = STUCK_AFTER.total_seconds(),
    watch_seconds: Annotated[
        float | None,
        typer.Option(
            "--watch",
            metavar="[SECONDS]",
            min=0.1,
            max=86_400,
            help=f"Fill the terminal, and refresh every SECONDS (default {WATCH_SECONDS}) until"
            " Ctrl-C.",
        ),
    ] = None,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show the mirror state of one branch or of all, those that need attention first.

    stuck (longest first), failing (most failures first), never-mirrored, mirroring, mirrored
    (oldest success first); --json is ordered by id. All ages are since the start of an attempt, by
    the database's clock.

    \b
    Examples:
      mirror-consumer status 17 --json
      mirror-consumer status --state failing --state stuck --watch 5
      mirror-consumer status --older-than 6h
    """
    if branch_id is not None:
        check_branch_id(branch_id)
    if watch_seconds is not None and as_json_document:
        raise ValueError("--watch and --json exclude each other: a program can simply ask again")
    success_older_than = None if older_than is None else duration(older_than)
    engine = ready_engine(database_url)

    def read() -> Reading:
        with engine.begin() as connection:
            if branch_id is not None and not is_registered(connection, branch_id):
                raise not_registered(branch_id)
            now = database_now(connection)
            branches = branch_states(
                connection,
                branch_id,
                stuck_after=timedelta(seconds=stuck_after_seconds),
                states=states or (),
                success_older_than=success_older_than,
                now=now,
            )
        return Reading(branches, now)

    if watch_seconds is not None:
        watch(read, watch_seconds)
    elif as_json_document:
        with printed_where_not_so({"branches": []}):
            branches = sorted(read().branches, key=lambda branch: branch["id"])
            print_json({"branches": [as_json(branch) for branch in branches]})
    else:
        with_revisions = shows_revisions(Console())
        print_table(
            branch_headings(with_revisions),
            [branch_cells(branch, with_revisions) for branch in read().branches],
            shorten=SHORTENED,
        )


@app.command()
def history(
    branch_id: Annotated[int, typer.Argument(metavar="ID", help="The branch's number.")],
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help=f"At most this many, latest first. [default: {SHOWN_ATTEMPTS}; with --json, all]",
        ),
    ] = None,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show the attempts to mirror one branch, latest first, and how long each took.

    \b
    Example:
      mirror-consumer history 17 --limit 10
    """
    check_branch_id(branch_id)
    shown = limit or SHOWN_ATTEMPTS
    with transaction(database_url) as connection:
        found = attempts(connection, branch_id, limit if as_json_document else shown + 1)
        is_known = bool(found) or is_registered(connection, branch_id)
    if as_json_document:
        print_json({"id": branch_id, "attempts": [as_json(attempt) for attempt in found]})
    if not is_known:
        raise not_registered(branch_id)
    if as_json_document:
        return
    print_table(
        ("started", "took", "outcome", "revision", "message"),
        map(attempt_cells, found[:shown]),
        shorten=SHORTENED,
    )
    if len(found) > shown:
        typer.echo(f"only the latest {shown} are shown: see --limit", err=True)


def with_watch_seconds(arguments: Sequence[str]) -> list[str]:
    filled: list[str] = []
    for position, argument in enumerate(arguments):
        filled.append(argument)
        following = " ".join(arguments[position + 1 : position + 2])
        if argument == "--watch" and not re.fullmatch(r"[0-9.]+", following):
            filled.append(WATCH_SECONDS)
    return filled


def not_registered(branch_id: int) -> ConditionNotMet:
    return ConditionNotMet(
        f"branch {branch_id} is not registered: mirror-consumer branches add {branch_id} NAME"
    )


@contextmanager
def printed_where_not_so(document: object) -> Iterator[None]:
    """Programs get their document even if the answer is that there is nothing."""
    try:
        yield
    except ConditionNotMet:
        print_json(document)
        raise


def shows_revisions(console: Console) -> bool:
    return not console.is_terminal or console.width >= CELLS_WITH_REVISIONS


def branch_headings(with_revisions: bool) -> tuple[str, ...]:
    revision = ("revision",) if with_revisions else ()
    return ("id", "name", "state", "last success", *revision, "failures", "message")


def branch_cells(branch: Mapping[str, Any], with_revisions: bool) -> tuple[object, ...]:
    age = branch["last_success_age_seconds"]
    return (
        branch["id"],
        branch["unique_name"],
        branch["state"],
        "never" if age is None else f"{span(age)} ago",
        *([(branch["last_mirrored_id"] or "")[:12]] if with_revisions else []),
        branch["mirror_failures"],
        in_one_line(branch["mirror_status_message"]),
    )


def attempt_cells(attempt: Mapping[str, Any]) -> tuple[object, ...]:
    took = attempt["duration_seconds"]
    return (
        attempt["started_at"],
        None if took is None else exact_span(took),
        attempt["outcome"] or "unfinished",
        (attempt["revision_id"] or "")[:12],
        in_one_line(attempt["failure_reason"]),
    )


def watch(read: Callable[[], Reading], seconds: float) -> None:
    """Reads and shows again and again, until Ctrl-C or SIGTERM.

    If a read fails, the last result stays on the screen, marked as stale.
    """
    console = Console()
    if not console.is_terminal:
        raise ValueError("--watch needs a terminal; for a file or a pipe, run status repeatedly")
    # The default handler would leave the terminal on its alternate screen, without a cursor.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        reading, trouble = read(), ""
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(frame(console, reading, trouble, seconds), refresh=True)
                time.sleep(seconds)
                try:
                    reading, trouble = read(), ""
                except (DatabaseUnavailable, DBAPIError) as error:
                    trouble = message_of(error)


def frame(console: Console, reading: Reading, trouble: str, seconds: float) -> Group:
    """A summary, and below it as many branches as the terminal has lines for."""
    with_revisions = shows_revisions(console)
    shown = reading.branches[: max(1, console.height - 3)]
    heading = f"{summary(reading.branches)}; {reading.now:{TIME}} UTC, every {seconds:g} s"
    note = f"STALE since then: {trouble}" if trouble else ""
    if hidden := len(reading.branches) - len(shown):
        note = note or f"the first {len(shown)}; {hidden:,} more below"
    return Group(
        *(
            Text(printable(line), no_wrap=True, overflow="ellipsis", style=style)
            for line, style in ((heading, "bold"), (note, "bold red" if trouble else "dim"))
        ),
        terminal_table(
            branch_headings(with_revisions),
            [branch_cells(branch, with_revisions) for branch in shown],
            shorten=SHORTENED,
        ),
    )


def summary(branches: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(branch["state"] for branch in branches)
    parts = [f"{counts[state]:,} {state}" for state in BranchState if counts[state]]
    total = f"{len(branches):,} branch{'' if len(branches) == 1 else 'es'}"
    return f"{total}: {', '.join(parts)}" if parts else total
