"""What the operators' commands share: options, exit codes, how they fail, what they print."""

import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from consumer.database import (
    DatabaseUnavailable,
    SchemaMissing,
    check_database,
    first_line,
    lacks_right,
    message_is_to_blame,
    open_engine,
)
from consumer.errors import NotSo
from consumer.messages import FUTURE_TOLERANCE
from consumer.status import Difference
from consumer.topology import BrokerUnavailable
from contract import environment
from contract.events import shown

EXIT_NOT_SO = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
MAX_SECONDS = 1e9
FUTURE_TOLERANCE_SECONDS = FUTURE_TOLERANCE.total_seconds()
FAILURES = (BrokerUnavailable, DatabaseUnavailable, DBAPIError, NotSo, SchemaMissing, ValueError)
"""What a command may end with: `message_of` and `exit_code_of` say how."""
TIME = "%Y-%m-%d %H:%M:%S"
"""How a person is shown an instant, in UTC."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def given_or_in_file(variable: str) -> Callable[[typer.Context, typer.CallbackParam, str], str]:
    """For an option: the URL that it or its variable gives, else that of a file."""

    def choose(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
        source = context.get_parameter_source(parameter.name or "")
        is_given = source is not None and source.name != "DEFAULT"
        return value if is_given else environment.url_in_file(variable) or value

    return choose


DatabaseUrlOption = Annotated[
    str,
    typer.Option(
        "--database-url",
        envvar=environment.DATABASE_URL,
        callback=given_or_in_file(environment.DATABASE_URL),
        help=f"The database. Or in a file that {environment.DATABASE_URL}_FILE names.",
    ),
]
AmqpUrlOption = Annotated[
    str,
    typer.Option(
        "--amqp-url",
        envvar=environment.AMQP_URL,
        callback=given_or_in_file(environment.AMQP_URL),
        help="The broker; several addresses have commas between them, and the next is taken where"
        f" one does not answer. Or in a file that {environment.AMQP_URL}_FILE names.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
FutureToleranceOption = Annotated[
    float,
    typer.Option(
        "--future-tolerance-seconds",
        min=0,
        max=MAX_SECONDS,
        help="How far an event's time may be ahead of this host's clock.",
    ),
]


def run_app(app: typer.Typer, program: str) -> None:
    """Runs a console script. Bad input exits 2, a server that cannot be reached 3."""
    try:
        app()
    except FAILURES as error:
        fail(program, message_of(error), exit_code_of(error))


def message_of(error: Exception) -> str:
    if not isinstance(error, DBAPIError):
        return str(error)
    if lacks_right(error):
        return f"{first_line(error)}; give this database user the role for it, see roles.sql"
    return first_line(error)


def exit_code_of(error: Exception) -> int:
    if isinstance(error, DBAPIError):
        if lacks_right(error):
            return EXIT_USAGE
        return EXIT_USAGE if message_is_to_blame(error) else EXIT_UNREACHABLE
    if isinstance(error, BrokerUnavailable | DatabaseUnavailable):
        return EXIT_UNREACHABLE
    return EXIT_NOT_SO if isinstance(error, NotSo) else EXIT_USAGE


def fail(program: str, message: str, exit_code: int) -> NoReturn:
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(exit_code)


def ready_engine(database_url: str) -> Engine:
    """Raises DatabaseUnavailable or SchemaMissing where nothing could be written."""
    engine = open_engine(database_url)
    check_database(engine)
    return engine


@contextmanager
def transaction(database_url: str) -> Iterator[Connection]:
    with ready_engine(database_url).begin() as connection:
        yield connection


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


def print_differences(differences: Iterable[Difference]) -> None:
    """Each branch's columns that differ, before and after."""
    rows = [
        (branch.branch_id, column, branch.before[column], branch.after[column])
        for branch in differences
        for column in branch.before
        if branch.before[column] != branch.after[column]
    ]
    if rows:
        print_table(("branch", "column", "before", "after"), rows)


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


def duration(text: str) -> timedelta:
    """What an operator types: a whole number and its unit. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,10})([smhd])", text)
    if match is None or (seconds := int(match[1]) * UNITS[match[2]]) > MAX_SECONDS:
        raise ValueError(
            f"the duration {shown(text)} cannot be read: a whole number and s, m, h or d, such as"
            " 90s, 15m, 6h or 2d"
        )
    return timedelta(seconds=seconds)


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def as_document(differences: Iterable[Difference]) -> list[dict[str, Any]]:
    return [each.as_json() for each in differences]
