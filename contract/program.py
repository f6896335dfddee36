"""How every console script begins and ends: its help, its output, its errors, its exit code."""

import gc
import inspect
import io
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from mirrorfeed.contract import exit_codes
from mirrorfeed.contract.printing import OutputFailed, guard_output

Meaning = Callable[[Exception], tuple[str, int] | None]
"""What an error says to the command's user, and the exit code; None if it is a bug."""


def run_program(app: typer.Typer, program: str, meaning: Meaning) -> NoReturn:
    """Runs a console script, and ends the process with its exit code.

    An error ends it with a message on standard error; a bug keeps its traceback.
    """
    # What is loaded stays until the end: the garbage collector need not look through it, again and
    # again while a service runs, and once more when the process ends, which takes 0.1 s.
    gc.freeze()
    guard_output()
    command = typer.main.get_command(app)
    complete_help(command)
    try:
        try:
            exit_code = _exit_code(command, program, meaning)
        finally:
            sys.stdout.flush()
    except OutputFailed as error:
        exit_code = _fail(program, str(error), exit_codes.USAGE)
    gc.freeze()
    sys.exit(exit_code)


def _exit_code(command: Any, program: str, meaning: Meaning) -> int:
    try:
        return command.main(prog_name=program, standalone_mode=False) or 0
    except typer.TyperException as error:
        usage_error: Any = error
        shown = io.StringIO()
        usage_error.show(shown)
        print(shown.getvalue(), end="", file=sys.stderr)
        return error.exit_code
    except typer.Abort:
        return _fail(program, "stopped: nothing was done", exit_codes.NOT_MET)
    except OutputFailed:
        raise
    except Exception as error:
        known = meaning(error)
        if known is None:
            raise
        return _fail(program, *known)


def _fail(program: str, message: str, exit_code: int) -> int:
    sys.stdout.flush()  # what was printed before the error comes before it
    # Further lines are indented: what an error quotes cannot pass for another error.
    print(f"{program}: {message}".replace("\n", "\n  "), file=sys.stderr)
    return exit_code


def complete_help(command: Any) -> None:
    """Gives each command a list of its exit codes, unless it has one, and its whole first sentence
    where commands are listed: Typer would cut it."""
    command.epilog = command.epilog or exit_codes.HELP
    paragraph = inspect.cleandoc(command.help or "").partition("\n\n")[0]
    command.short_help = re.split(r"(?<=\.)\s", paragraph)[0]
    for each in getattr(command, "commands", {}).values():
        complete_help(each)
