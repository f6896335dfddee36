"""Answers as Nagios plugins give them: one line, and an exit code from 0 to 3.

See https://www.monitoring-plugins.org/doc/guidelines.html.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from mirrorfeed.consumer.commands.output import in_one_line
from mirrorfeed.consumer.commands.program import as_consumer_error
from mirrorfeed.consumer.errors import UsageError
from mirrorfeed.contract.printing import OutputFailed, printable


class Level(IntEnum):
    """What an answer means; its number is the exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


NagiosOption = Annotated[
    bool,
    typer.Option(
        "--nagios",
        help="Print one line as a Nagios plugin does, and exit 0 (OK), 1 (WARNING), 2 (CRITICAL) or"
        " 3 (UNKNOWN).",
    ),
]


class MonitorCommand(TyperCommand):
    """With --nagios, bad usage is UNKNOWN: the usual exit code 2 would mean CRITICAL."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        is_nagios = "--nagios" in args
        try:
            return super().make_context(info_name, args, *rest, **extra)
        except typer.TyperException as error:
            if not is_nagios:
                raise
            _print(Level.UNKNOWN, error.format_message())
            raise typer.Exit(Level.UNKNOWN) from error


@contextmanager
def unknown_if_it_fails(is_nagios: bool, as_json_document: bool) -> Iterator[None]:
    """What goes wrong inside is UNKNOWN, if the answer is for Nagios."""
    try:
        if is_nagios and as_json_document:
            raise UsageError("--nagios and --json exclude each other: give one of them")
        yield
    except Exception as error:
        known = as_consumer_error(error)
        if not is_nagios or known is None:
            raise
        _print(Level.UNKNOWN, str(known))
        raise typer.Exit(Level.UNKNOWN) from error


def answer(level: Level, message: str, performance: Mapping[str, str] | None = None) -> NoReturn:
    """Prints the answer, with performance data by label, and ends the command."""
    _print(level, message, performance or {})
    raise typer.Exit(level)


def _print(level: Level, message: str, performance: Mapping[str, str] | None = None) -> None:
    """If nobody can hear the answer, it is UNKNOWN: the usual exit code 2 would mean CRITICAL."""
    try:
        print(line(level, message, performance or {}), flush=True)
    except OutputFailed as error:
        raise typer.Exit(Level.UNKNOWN) from error


def line(level: Level, message: str, performance: Mapping[str, str]) -> str:
    """One line. Nagios takes what follows a pipe sign for performance data."""
    said = printable(f"{level.name} - {in_one_line(message)}").replace("|", "\N{BROKEN BAR}")
    data = " ".join(f"{label}={value}" for label, value in performance.items())
    return f"{said} | {data}" if data else said
