"""What the operators' commands print: tables, pages and durations."""

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from mirrorfeed.consumer.words import exact_span as exact_span
from mirrorfeed.consumer.words import plural as plural
from mirrorfeed.consumer.words import span as span
from mirrorfeed.contract.printing import STANDARD_ERROR, STANDARD_OUTPUT, printable, styled_output

WIDE_CELLS = 100
"""On a narrower terminal, what says why needs the room of what is rarely looked at."""
TIME = "%Y-%m-%d %H:%M:%S"
"""How an instant is shown to a person, in UTC."""


def terminal(descriptor: int = STANDARD_OUTPUT) -> Console:
    """What is drawn on it must be `printable`."""
    return Console(file=styled_output(descriptor))


def has_room() -> bool:
    """Whether the columns that are rarely looked at are shown."""
    screen = terminal()
    return not screen.is_terminal or screen.width >= WIDE_CELLS


def progress_bar() -> Progress:
    """On standard error; on nothing if that is not a terminal."""
    return Progress(console=terminal(STANDARD_ERROR), disable=not sys.stderr.isatty())


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    empty: str | None = None,
    shorten: Collection[str] = (),
) -> None:
    """Prints a table: on a terminal within its width, else each row complete, on its own line.

    On a terminal the columns in `shorten` are cut if there is no room, and each row stays on one
    line; if `shorten` is empty, long cells take several lines. Without rows it prints the sentence
    `empty`, if there is one.
    """
    console = terminal()
    if not rows:
        if empty:
            print(empty)
    elif console.is_terminal:
        console.print(terminal_table(headings, rows, shorten=shorten))
    else:
        for line in whole_lines(headings, rows):
            print(line)


def print_wrapped(text: str, indent: int = 2) -> None:
    """The text's own lines, none of them wider than the terminal, or than 80 cells in a pipe."""
    console = terminal()
    for line in text.splitlines():
        wrapped = Text(printable(line)).wrap(console, max(20, console.width - indent))
        for part in wrapped:
            print(" " * indent + part.plain.rstrip())


def terminal_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    shorten: Collection[str] = (),
) -> Table:
    """What `print_table` shows on a terminal."""
    table = Table(box=None)
    for heading in headings:
        table.add_column(heading, no_wrap=bool(shorten) and heading not in shorten)
    is_one_line = True if shorten else None
    for row in rows:
        cells = [printable(shown_cell(cell)) for cell in row]
        table.add_row(*(Text(cell, no_wrap=is_one_line, overflow="ellipsis") for cell in cells))
    return table


def whole_lines(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The rows in aligned columns; nothing is cut, however long a line gets."""
    lines = [headings, *([printable(shown_cell(cell)) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)
        )
        yield f" {'  '.join(cells)}".rstrip()


def shown_cell(value: object) -> str:
    if value is None:
        return ""
    return f"{clock(value)} UTC" if isinstance(value, datetime) else str(value)


def clock(instant: datetime) -> str:
    """The instant in UTC, for where it is already said that it is."""
    return f"{instant.astimezone(UTC):{TIME}}"


def in_one_line(text: str | None) -> str:
    return " ".join((text or "").split())
