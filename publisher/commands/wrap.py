"""`mirror-publisher run` and `run-script`: a command runs, and what becomes of it is reported.

Whatever becomes of the report, the command runs, and its exit code is passed on.
"""

import shlex
import signal
import socket
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.events import MAX_NAME_LENGTH, check_branch_id, check_text, shown
from mirrorfeed.publisher.commands.options import (
    LimitOption,
    SpoolOption,
    spool_path,
    spooling_client,
)
from mirrorfeed.publisher.commands.program import PROGRAM, Refused, refuse
from mirrorfeed.publisher.spool import DEFAULT_LIMIT_BYTES

NOT_RUN = 125
"""As of timeout(1) and env(1): something is wrong with us, not with the command."""
SEPARATOR = "--"
CODES_BEGIN = """\b
Exit codes:
  the command's, and as those of timeout(1):
"""
CODES_END = """\
  126    it cannot be run
  127    it was not found
  128+N  signal N ended it
"""
EXIT_CODES = f"""{CODES_BEGIN}\
  124    it took too long (--timeout)
  125    it was not run: bad usage, or another run is under way (--lock);
         or an error of ours
{CODES_END}"""
EXIT_CODES_OF_A_SCRIPT = f"""{CODES_BEGIN}\
  125    it was not run: bad usage; or an error of ours
{CODES_END}"""

app = typer.Typer()


class WrapperCommand(TyperCommand):
    """What is wrong with it or its usage must not look like an exit code of the command it runs,
    and the command's options must not be taken for its own."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        is_separated = SEPARATOR in args
        words = list(args)
        try:
            context = super().make_context(
                info_name, args, *rest, allow_interspersed_args=is_separated, **extra
            )
            command = context.params["command"] or []
            if not is_separated and any(word.startswith("-") for word in command[1:]):
                ours = words[: len(words) - len(command)]
                right = f"{context.command_path} {shlex.join([*ours, SEPARATOR, *command])}"
                raise typer.BadParameter(
                    f"the command has options of its own: put -- before it, as in {right}", context
                )
        except typer.TyperException as error:
            error.exit_code = NOT_RUN
            raise
        return context

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException, Refused):
            raise
        except ValueError as error:
            refuse(str(error), NOT_RUN)
        except Exception:
            traceback.print_exc()
            raise typer.Exit(NOT_RUN) from None


def say(message: str) -> None:
    """Says something of our own among what the command writes to standard error."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)


def seconds_given(timeout: str) -> float:
    """As for timeout(1), a number without a unit means seconds. Raises ValueError."""
    return duration(f"{timeout}s" if timeout.isdecimal() else timeout).total_seconds()


@app.command(cls=WrapperCommand, epilog=EXIT_CODES)
def run(
    branch: Annotated[int, typer.Option(metavar="ID", help="The branch's number.")],
    command: Annotated[list[str], typer.Argument(help="The mirror command, after --.")],
    revision_command: Annotated[
        str | None,
        typer.Option(help="A shell command that prints the revision that is mirrored now."),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="End the command if it takes longer than this, such as 90 (seconds), 10m or 2h,"
            " and report that it failed.",
        ),
    ] = None,
    lock: Annotated[
        bool,
        typer.Option("--lock", help="Run nothing if another run of this branch is under way."),
    ] = False,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Run a mirror command, report its start and end, and exit with its code.

    If it fails, what it wrote to standard error is reported as the reason: its last lines that
    begin with `fatal:` or `error:`, or else the last few.

    \b
    Examples:
      mirror-publisher run --branch 17 \\
        --revision-command "git -C /srv/17 rev-parse HEAD" \\
        -- git -C /srv/17 fetch --prune
      mirror-publisher run --branch 17 --timeout 2h --lock \\
        -- git -C /srv/17 fetch --prune
    """
    from mirrorfeed.publisher.wrapper.command import Deadline, output_of, run_command
    from mirrorfeed.publisher.wrapper.lock import AlreadyRunning, only_run_of
    from mirrorfeed.publisher.wrapper.reporter import Reporter
    from mirrorfeed.publisher.wrapper.signals import PassedOnSignals, end_by

    check_branch_id(branch)
    limit = None if timeout is None else seconds_given(timeout)
    reporter = Reporter(partial(spooling_client, spool, spool_limit_bytes), say)
    locked: AbstractContextManager[list[int]] = nullcontext([])
    if lock:
        locked = only_run_of(branch, partial(spool_path, spool), say)
    try:
        with locked as inherited, PassedOnSignals() as signals:
            started_at = reporter.attempt_started(branch)
            deadline = None if limit is None else Deadline.after(limit)
            failure: str | None = "mirror-publisher itself failed"
            revision = None
            try:
                ended = run_command(command, signals, say, deadline=deadline, inherited=inherited)
                failure = ended.failure
                if failure is None and revision_command is not None:
                    revision = output_of(revision_command, signals, deadline=deadline)
                    if revision is None:
                        say(
                            f"{shown(revision_command)} printed no revision; the branch is reported"
                            " as mirrored without one"
                        )
            finally:
                reporter.attempt_ended(branch, started_at, failure, revision)
    except AlreadyRunning as error:
        refuse(str(error), NOT_RUN)
    if signal.SIGINT in signals.ending:
        end_by(signal.SIGINT)
    raise typer.Exit(ended.exit_code)


@app.command("run-script", cls=WrapperCommand, epilog=EXIT_CODES_OF_A_SCRIPT)
def run_script(
    name: Annotated[str, typer.Argument(help="The script's name.")],
    command: Annotated[list[str], typer.Argument(help="The command, after --.")],
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Run a script, report the run if it ends normally, and exit with its code.

    \b
    Example:
      mirror-publisher run-script nightly-gc -- /usr/local/bin/nightly-gc --all
    """
    from mirrorfeed.publisher.wrapper.command import run_command
    from mirrorfeed.publisher.wrapper.reporter import Reporter
    from mirrorfeed.publisher.wrapper.signals import PassedOnSignals, end_by

    check_text("name", name, at_least=1, at_most=MAX_NAME_LENGTH)
    reporter = Reporter(partial(spooling_client, spool, spool_limit_bytes), say)
    with PassedOnSignals() as signals:
        started_at = datetime.now(UTC)
        ended = run_command(command, signals, say)
        if ended.failure is None:
            completed_at = max(datetime.now(UTC), started_at)
            reporter.script_ran(name, socket.gethostname(), started_at, completed_at)
    if signal.SIGINT in signals.ending:
        end_by(signal.SIGINT)
    raise typer.Exit(ended.exit_code)
