"""`mirror-consumer status` and `history`: how the branches are."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from mirrorfeed.consumer.branches.register import find
from mirrorfeed.consumer.branches.status import (
    STUCK_AFTER,
    BranchState,
    attempts,
    branch_states,
)
from mirrorfeed.consumer.commands.branch_views import (
    Reading,
    print_attempts,
    print_branch,
    print_branches,
    watch,
)
from mirrorfeed.consumer.commands.branches import NO_BRANCHES
from mirrorfeed.consumer.commands.options import (
    DatabaseUrlOption,
    JsonOption,
)
from mirrorfeed.consumer.commands.program import reading, reading_engine
from mirrorfeed.consumer.database import as_json, database_now
from mirrorfeed.consumer.errors import ConditionNotMet, UsageError
from mirrorfeed.contract import environment
from mirrorfeed.contract.durations import MAX_SECONDS, duration
from mirrorfeed.contract.printing import print_json

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
    given: Annotated[
        str | None,
        typer.Argument(metavar="ID|NAME", help="The branch's number or name. [default: all]"),
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
    host: Annotated[
        str | None,
        typer.Option(
            metavar="HOSTNAME", help="Only branches whose latest attempt this host reported."
        ),
    ] = None,
    stuck_after_seconds: Annotated[
        float,
        typer.Option(
            min=0, max=MAX_SECONDS, help="After this long an unfinished attempt counts as stuck."
        ),
    ] = STUCK_AFTER.total_seconds(),
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most this many branches.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All branches, also where the terminal is too small.")
    ] = False,
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
    the database's clock. A terminal gets as many branches as it has lines for; one branch gets a
    page of its own.

    \b
    Examples:
      mirror-consumer status 17
      mirror-consumer status '~jane/project/main' --json
      mirror-consumer status --state failing --state stuck --watch 5
      mirror-consumer status --older-than 6h --host vostok
    """
    if watch_seconds is not None and as_json_document:
        raise UsageError("--watch and --json exclude each other: a program can simply ask again")
    if watch_seconds is not None and (limit or everything):
        raise UsageError("--watch shows what the terminal has lines for: leave --limit and --all")
    if limit and everything:
        raise UsageError("--limit and --all exclude each other: give one of them")
    success_older_than = None if older_than is None else duration(older_than)
    engine = reading_engine(database_url)

    def read() -> Reading:
        with engine.begin() as connection:
            branch_id = None if given is None else find(connection, given).id
            now = database_now(connection)
            branches = branch_states(
                connection,
                branch_id,
                stuck_after=timedelta(seconds=stuck_after_seconds),
                states=states or (),
                hostname=host,
                success_older_than=success_older_than,
                now=now,
            )
        return Reading(branches, now)

    if watch_seconds is not None:
        watch(read, watch_seconds)
    elif as_json_document:
        with printed_where_not_so({"branches": []}):
            branches = sorted(read().branches[:limit], key=lambda branch: branch["id"])
            print_json({"branches": [as_json(branch) for branch in branches]})
    else:
        reading = read()
        if given is not None and reading.branches:
            print_branch(reading.branches[0], reading.now)
        else:
            is_filtered = any((given, states, older_than, host))
            print_branches(
                reading.branches,
                len(reading.branches) if everything else limit,
                empty="no branch matches" if is_filtered else NO_BRANCHES,
            )


@app.command()
def history(
    given: Annotated[str, typer.Argument(metavar="ID|NAME", help="The branch's number or name.")],
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
    """Show the attempts to mirror one branch, latest first, how long each took and on which host.

    \b
    Example:
      mirror-consumer history 17 --limit 10
    """
    shown = limit or SHOWN_ATTEMPTS
    asked_id = int(given) if given.isdecimal() else None
    with (
        printed_where_not_so({"id": asked_id, "attempts": []}, as_json_document),
        reading(database_url) as connection,
    ):
        branch_id = find(connection, given).id
        found = attempts(connection, branch_id, limit if as_json_document else shown + 1)
    if as_json_document:
        print_json({"id": branch_id, "attempts": [as_json(attempt) for attempt in found]})
        return
    print_attempts(found[:shown], empty=f"branch {branch_id} has never been attempted")
    if len(found) > shown:
        print(f"only the latest {shown} are shown: see --limit", file=sys.stderr)


def with_watch_seconds(arguments: Sequence[str]) -> list[str]:
    filled: list[str] = []
    for position, argument in enumerate(arguments):
        filled.append(argument)
        following = " ".join(arguments[position + 1 : position + 2])
        if argument == "--watch" and not re.fullmatch(r"[0-9.]+", following):
            filled.append(WATCH_SECONDS)
    return filled


@contextmanager
def printed_where_not_so(document: object, as_json_document: bool = True) -> Iterator[None]:
    """Programs get their document even if the answer is that there is nothing."""
    try:
        yield
    except ConditionNotMet:
        if as_json_document:
            print_json(document)
        raise
