"""How an operators' command starts and ends: connections, signals, errors, exit codes."""

import getpass
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from mirrorfeed.amqp.connections import BrokerUnavailable
from mirrorfeed.amqp.session import CloseUnanswered
from mirrorfeed.consumer.database import check_database, meaning, open_engine
from mirrorfeed.consumer.errors import ConsumerError, ServerUnavailable, UsageError


def meaning_to_caller(error: Exception) -> tuple[str, int] | None:
    """What an error says to the command's caller, and the exit code; None if it is a bug."""
    known = as_consumer_error(error)
    return (str(known), known.exit_code) if known else None


def as_consumer_error(error: Exception) -> ConsumerError | None:
    """What an error means to the command's caller; None if it is a bug."""
    match error:
        case ConsumerError():
            return error
        case DBAPIError():
            return meaning(error)
        case BrokerUnavailable() | CloseUnanswered():
            return ServerUnavailable(str(error))
        case ValueError():
            return UsageError(str(error))
        case _:
            return None


def ready_engine(database_url: str) -> Engine:
    """An engine for a database that can be written to. Raises DatabaseUnavailable or
    SchemaMissing."""
    engine = open_engine(database_url)
    check_database(engine)
    return engine


def reading_engine(database_url: str) -> Engine:
    """An engine for a database that can be read; a standby will do, but says so. Raises
    DatabaseUnavailable or SchemaMissing."""
    engine = open_engine(database_url)
    changed_seconds = check_database(engine, to_write=False)
    if changed_seconds is not None:
        print(
            f"from a standby, whose latest change is {changed_seconds:,.0f} s old", file=sys.stderr
        )
    return engine


def caller() -> str:
    """Who runs this command, as others will read it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}, process {os.getpid()}"


@contextmanager
def transaction(database_url: str) -> Iterator[Connection]:
    """For commands that write."""
    with ready_engine(database_url).begin() as connection:
        yield connection


@contextmanager
def reading(database_url: str) -> Iterator[Connection]:
    """For commands that only read."""
    with reading_engine(database_url).begin() as connection:
        yield connection


def refuse_options_before_subcommand(context: typer.Context) -> None:
    """Raises UsageError if a group was given options that its subcommand would not see."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"options must come after {context.invoked_subcommand}, not before it")


@contextmanager
def until_signal() -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM sets the event; the second one ends the process as usual."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        signal.signal(number, previous[signal.Signals(number)])

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, stop) for number in signals}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
