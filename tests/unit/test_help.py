"""What `--help` says, and how it looks on a terminal of 80 columns."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from mirrorfeed.contract import exit_codes
from tests.apps import COMMANDS

COLUMNS = 80


def helps(name: str, command: Any, parent: Any = None) -> Iterator[tuple[str, str]]:
    """The help of a command and of all below it."""
    context = typer.Context(command, info_name=name, parent=parent, terminal_width=COLUMNS - 2)
    yield context.command_path, command.get_help(context)
    for below, each in getattr(command, "commands", {}).items():
        yield from helps(below, each, context)


HELPS = [each for name, command in COMMANDS.items() for each in helps(name, command)]


@pytest.mark.parametrize(("path", "shown"), HELPS, ids=[path for path, _ in HELPS])
def test_a_help_text_can_be_read(path: str, shown: str) -> None:
    """No sentence is cut, nothing is wider than the terminal, and the exit codes are there."""
    assert not re.search(r"\w\.\.\.$", shown, re.MULTILINE)
    assert [line for line in shown.splitlines() if len(line) > COLUMNS] == []
    assert "Exit codes:\n" in shown


def test_the_exit_codes_are_those_that_are_used() -> None:
    """Each has a line."""
    codes = {0, exit_codes.NOT_MET, exit_codes.USAGE, exit_codes.UNREACHABLE}
    assert {int(code) for code in re.findall(r"^  (\d)  ", exit_codes.HELP, re.MULTILINE)} == codes
