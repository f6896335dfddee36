"""How an operators' command begins, and how it ends: exit codes, errors, connections."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from mirrorfeed.amqp.connections import BrokerUnavailable
from mirrorfeed.consumer.database import (
    DatabaseUnavailable,
    SchemaMissing,
    check_database,
    first_line,
    lacks_right,
    message_is_to_blame,
    open_engine,
)
from mirrorfeed.consumer.errors import ConditionNotMet

EXIT_NOT_MET = 1

EXIT_USAGE = 2

EXIT_UNREACHABLE = 3

FAILURES = (
    BrokerUnavailable,
    DatabaseUnavailable,
    DBAPIError,
    ConditionNotMet,
    SchemaMissing,
    ValueError,
)
"""What a command may end with: `message_of` and `exit_code_of` say how."""


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
    return EXIT_NOT_MET if isinstance(error, ConditionNotMet) else EXIT_USAGE


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
