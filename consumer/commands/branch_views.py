"""How branches and their attempts are shown to people: as tables, a page, and a live screen."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from msgspec import Struct
from rich.console import Group
from rich.live import Live
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.branches.status import BranchState
from mirrorfeed.consumer.commands.output import (
    TIME,
    clock,
    exact_span,
    has_room,
    in_one_line,
    print_table,
    print_wrapped,
    shown_cell,
    span,
    terminal,
    terminal_table,
    whole_lines,
)
from mirrorfeed.consumer.commands.program import as_consumer_error
from mirrorfeed.consumer.database import age_seconds
from mirrorfeed.consumer.errors import DatabaseUnavailable, UsageError
from mirrorfeed.contract.printing import printable
from mirrorfeed.contract.secrets import mask_secrets

LINES_AROUND_BRANCHES = 5
"""Two summaries, the headings, the line about the rest, and the prompt."""
SHORTENED = ("name", "revision", "message")


class Reading(Struct, frozen=True):
    """What `status` has read, and when."""

    branches: list[dict[str, Any]]
    now: datetime


def print_branches(branches: Sequence[Mapping[str, Any]], limit: int | None, *, empty: str) -> None:
    """The first `limit` branches; if that is None, as many as a terminal has lines for.

    A summary of all comes first and last, so that it is in sight wherever the screen begins.
    """
    if not branches:
        print(empty)
        return
    screen = terminal()
    if limit is None and screen.is_terminal:
        limit = max(1, screen.height - LINES_AROUND_BRANCHES)
    shown = branches[:limit]
    print(summary(branches))
    with_revisions = has_room()
    print_table(
        branch_headings(with_revisions),
        [branch_cells(branch, with_revisions) for branch in shown],
        shorten=SHORTENED,
    )
    if hidden := len(branches) - len(shown):
        print(f"{hidden:,} more: see --all, --limit, --state and --older-than")
    print(summary(branches))


def print_branch(branch: Mapping[str, Any], now: datetime) -> None:
    """All of one branch, as a page."""
    print(f"branch {branch['id']}, {printable(branch['unique_name'])}\n")
    for name, value in branch_fields(branch, now):
        print(f"{name:14}{printable(value)}")
    if reason := branch["mirror_status_message"]:
        print("reason")
        print_wrapped(reason, indent=2)


def branch_fields(branch: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, str]]:
    yield "state", branch["state"]
    yield "last success", instant_and_age(branch["last_mirrored"], now)
    if revision := branch["last_mirrored_id"]:
        yield "revision", revision
    yield "last attempt", instant_and_age(branch["last_mirror_attempt"], now)
    if hostname := branch["hostname"]:
        yield "reported by", hostname
    since = " since the last success" if branch["last_mirrored"] else ""
    yield "failures", f"{branch['mirror_failures']:,}{since}"
    if url := branch["url"]:
        yield "url", mask_secrets(url)


def instant_and_age(instant: datetime | None, now: datetime) -> str:
    if instant is None:
        return "never"
    return f"{shown_cell(instant)}, {span(age_seconds(now, instant))} ago"


def print_attempts(attempts: Sequence[Mapping[str, Any]], empty: str) -> None:
    """A line for each attempt, with its message beside it, or below it on a terminal."""
    headings = ("started (UTC)", "took", "outcome", "host", "revision")
    rows = [attempt_cells(attempt) for attempt in attempts]
    messages = [attempt["failure_reason"] for attempt in attempts]
    if not attempts or not terminal().is_terminal:
        cells = [(*row, in_one_line(message)) for row, message in zip(rows, messages, strict=True)]
        print_table((*headings, "message"), cells, empty=empty)
        return
    heading, *lines = whole_lines(headings, rows)
    print(heading)
    for line, message in zip(lines, messages, strict=True):
        print(line)
        print_wrapped(message or "", indent=4)


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
        clock(attempt["started_at"]),
        None if took is None else exact_span(took),
        attempt["outcome"] or "unfinished",
        attempt["hostname"],
        (attempt["revision_id"] or "")[:12],
    )


def watch(read: Callable[[], Reading], seconds: float) -> None:
    """Reads and shows again and again, until Ctrl-C or SIGTERM.

    If a read fails, the last result stays on the screen, marked as stale.
    """
    screen = terminal()
    if not screen.is_terminal:
        raise UsageError("--watch needs a terminal; for a file or a pipe, run status repeatedly")
    # The default handler would leave the terminal on its alternate screen, without a cursor.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        reading, trouble = read(), ""
        with Live(console=screen, screen=True, auto_refresh=False) as live:
            while True:
                live.update(frame(screen.height, reading, trouble, seconds), refresh=True)
                time.sleep(seconds)
                try:
                    reading, trouble = read(), ""
                except (DatabaseUnavailable, DBAPIError) as error:
                    trouble = str(as_consumer_error(error))


def frame(height: int, reading: Reading, trouble: str, seconds: float) -> Group:
    """A summary, and below it as many branches as the terminal has lines for."""
    with_revisions = has_room()
    shown = reading.branches[: max(1, height - 3)]
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
