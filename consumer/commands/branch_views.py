"""How branches and their attempts are shown to people: as tables, and on a screen that goes on."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from msgspec import Struct
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.branches.status import BranchState
from mirrorfeed.consumer.commands.output import (
    TIME,
    exact_span,
    in_one_line,
    print_table,
    printable,
    span,
    terminal_table,
)
from mirrorfeed.consumer.commands.program import as_consumer_error
from mirrorfeed.consumer.errors import DatabaseUnavailable, UsageError

CELLS_WITH_REVISIONS = 100
"""On a narrower terminal, failure messages need the room."""
SHORTENED = ("name", "revision", "message")


class Reading(Struct, frozen=True):
    """What `status` has read, and when."""

    branches: list[dict[str, Any]]
    now: datetime


def print_branches(branches: Iterable[Mapping[str, Any]]) -> None:
    with_revisions = shows_revisions(Console())
    print_table(
        branch_headings(with_revisions),
        [branch_cells(branch, with_revisions) for branch in branches],
        shorten=SHORTENED,
    )


def print_attempts(attempts: Iterable[Mapping[str, Any]]) -> None:
    print_table(
        ("started", "took", "outcome", "revision", "message"),
        map(attempt_cells, attempts),
        shorten=SHORTENED,
    )


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
        raise UsageError("--watch needs a terminal; for a file or a pipe, run status repeatedly")
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
                    trouble = str(as_consumer_error(error))


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
