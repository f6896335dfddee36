"""`mirror-consumer status` and `history`: how the branches are."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from mirrorfeed.consumer.branches.status import (
    STUCK_AFTER,
    BranchState,
    attempts,
    branch_states,
    is_registered,
)
from mirrorfeed.consumer.commands.branch_views import (
    Reading,
    print_attempts,
    print_branches,
    watch,
)
from mirrorfeed.consumer.commands.options import (
    MAX_SECONDS,
    DatabaseUrlOption,
    JsonOption,
    duration,
)
from mirrorfeed.consumer.commands.output import print_json
from mirrorfeed.consumer.commands.program import ready_engine, transaction
from mirrorfeed.consumer.database import as_json, database_now
from mirrorfeed.consumer.errors import ConditionNotMet, UsageError
from mirrorfeed.contract import environment
from mirrorfeed.contract.events import check_branch_id

WATCH_SECONDS = "2"
SHOWN_ATTEMPTS = 100
"""How much of a long list a person is shown; programs get all of it."""

app = typer.Typer(rich_markup_mode=None)


class WatchCommand(TyperCommand):
    """Allows --watch with or without a number, which Typer does not support."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        return super().make_context(info_name, with_watch_seconds(args), *rest, **extra)


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
        raise UsageError("--watch and --json exclude each other: a program can simply ask again")
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
        print_branches(read().branches)


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
    print_attempts(found[:shown])
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
