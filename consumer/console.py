"""What the operators' commands share: options, exit codes, how they fail, what they print."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, NoReturn

import typer
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
    message_is_to_blame,
    open_engine,
)
from consumer.errors import NotSo
from consumer.messages import FUTURE_TOLERANCE
from consumer.status import Difference
from consumer.topology import BrokerUnavailable
from contract import environment

EXIT_NOT_SO = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
MAX_SECONDS = 1e9
FUTURE_TOLERANCE_SECONDS = FUTURE_TOLERANCE.total_seconds()

DatabaseUrlOption = Annotated[
    str, typer.Option("--database-url", envvar=environment.DATABASE_URL, help="The database.")
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
    except (BrokerUnavailable, DatabaseUnavailable) as error:
        fail(program, str(error), EXIT_UNREACHABLE)
    except DBAPIError as error:
        exit_code = EXIT_USAGE if message_is_to_blame(error) else EXIT_UNREACHABLE
        fail(program, first_line(error), exit_code)
    except NotSo as error:
        fail(program, str(error), EXIT_NOT_SO)
    except (SchemaMissing, ValueError) as error:
        fail(program, str(error), EXIT_USAGE)


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


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = Table(*headings, box=None)
    for row in rows:
        table.add_row(*(Text(printable(shown_cell(cell))) for cell in row))
    Console().print(table)


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
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)


def printable(text: str) -> str:
    """Nothing that comes from a puller may command the operator's terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def span(seconds: float) -> str:
    """A duration as a person says it: its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def as_document(differences: Iterable[Difference]) -> list[dict[str, Any]]:
    return [each.as_json() for each in differences]
