"""How the operators' commands print: tables, documents, durations, and nothing raw."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

TIME = "%Y-%m-%d %H:%M:%S"
"""How a person is shown an instant, in UTC."""


def print_json(document: object) -> None:
    print(json.dumps(document))


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    shorten: Collection[str] = (),
) -> None:
    """Prints a table: on a terminal within its width, else each row whole, on a line of its own.

    On a terminal the columns that `shorten` names are cut where there is no room, and each row
    keeps to one line; without any, what is too long takes several lines.
    """
    console = Console()
    if console.is_terminal:
        console.print(terminal_table(headings, rows, shorten=shorten))
    else:
        for line in whole_lines(headings, rows):
            print(line)


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
    """The rows in aligned columns; a line is as long as what it says."""
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
    return f"{value.astimezone(UTC):{TIME}}" if isinstance(value, datetime) else str(value)


def printable(text: str) -> str:
    """Nothing that comes from a puller may command the operator's terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def in_one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def span(seconds: float) -> str:
    """A duration as a person says it: its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def exact_span(seconds: float) -> str:
    """A duration as a person measures it: its two largest units."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
