"""`mirror-puller sync`: mirrors some branches now."""

import logging
import random
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from mirrorfeed.contract import environment, exit_codes
from mirrorfeed.contract.events import shown
from mirrorfeed.contract.logs import LogFormat, LogLevel, log_to_standard_error
from mirrorfeed.contract.options import AmqpUrlOption, LogFormatOption
from mirrorfeed.contract.printing import printable
from mirrorfeed.publisher.commands.options import LimitOption, SpoolOption
from mirrorfeed.publisher.spool import DEFAULT_LIMIT_BYTES
from mirrorfeed.puller.branch_list import Branch, read_branch_list
from mirrorfeed.puller.commands import options
from mirrorfeed.puller.commands.client import check_programs, open_reports
from mirrorfeed.puller.errors import NotMet, PullerError

logger = logging.getLogger(__name__)
app = typer.Typer()


@app.command()
def sync(
    which: Annotated[list[str], typer.Argument(metavar="ID|NAME…", help="Branches of the list.")],
    into: options.IntoOption = options.DEFAULT_INTO,
    list_path: options.ListOption = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Take over a history that has nothing in common with the mirror's, if the URL was"
            " changed.",
        ),
    ] = False,
    allow_protocol: options.ProtocolOption = None,
    forward: options.ForwardOption = True,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    log_format: LogFormatOption = LogFormat.TEXT,
) -> None:
    """Mirror branches now, due or not, and report it; 1 if any failed.

    Does what `run` was told last for this folder: its list, its protocols, its limits. It can be
    used while `run` works. What a puller that was killed has left is closed first.

    \b
    Example:
      mirror-puller sync 17 '~jane/project/main'
    """
    from mirrorfeed.puller.accounts import note
    from mirrorfeed.puller.attempt import Attempts
    from mirrorfeed.puller.commands.run import FLUSH_SECONDS
    from mirrorfeed.puller.folder import Folder
    from mirrorfeed.puller.leftovers import close_leftovers
    from mirrorfeed.puller.process import Processes
    from mirrorfeed.puller.schedule import wait_after
    from mirrorfeed.puller.state import BranchState, State

    log_to_standard_error(log_format, LogLevel.WARNING)
    folder = Folder(into)
    is_all_well = True
    with ExitStack() as opened:
        state = opened.enter_context(State(folder.state))
        wanted = chosen(which, options.noted_list(state, list_path))
        check_programs(wanted)
        settings = options.noted_settings(state).with_given(
            protocols=options.protocols(allow_protocol)
        )
        reports = open_reports(
            spool, spool_limit_bytes, amqp_url, forwards=forward, say=logger.warning
        )
        opened.callback(reports.close, flush_seconds=FLUSH_SECONDS if forward else 0.0)
        processes = opened.enter_context(closing(Processes()))

        def end(_number: int, _frame: FrameType | None) -> None:
            processes.interrupt()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        ids = [branch.id for branch in wanted]
        for each in close_leftovers(folder, reports, state.branches(), ids):
            if left := state.branch(each):
                left.running_since = None
                with going_on():
                    state.save([(each, left)])
        attempts = Attempts(folder, settings, reports, processes)
        for branch in wanted:
            if processes.is_interrupted:
                raise NotMet("told to end: not all of them were mirrored")
            known = state.branch(branch.id) or BranchState()
            known.running_since = time.time()
            with going_on():
                state.save([(branch.id, known)])
            outcome = attempts.attempt(branch, known, is_forced=force)
            is_first = known.mirrored_at == 0
            with going_on():
                known = state.branch(branch.id) or known  # `run` may have written it meanwhile
            note(known, branch, outcome)
            if not outcome.held_by:
                known.running_since = None
                known.due_at = time.time() + wait_after(
                    branch.interval_seconds or settings.interval_seconds,
                    known.failures,
                    is_first=is_first,
                    draw=random.uniform,
                )
            with going_on():
                state.save([(branch.id, known)])
            failure = outcome.held_by or (outcome.failure and outcome.failure.reason)
            is_all_well = is_all_well and not failure
            said = failure or f"mirrored {known.revision or '(nothing in it yet)'}"
            print(f"{branch.id} {printable(branch.name)}: {printable(str(said))}")
    if not is_all_well:
        raise typer.Exit(exit_codes.NOT_MET)


@contextmanager
def going_on() -> Iterator[None]:
    """What cannot be noted keeps nothing from being mirrored."""
    try:
        yield
    except PullerError as error:
        logger.error("cannot note what happens", extra={"because": error})


def chosen(which: Iterable[str], list_path: Path) -> list[Branch]:
    """Raises NotMet for one that is not in the list, and BadBranchList."""
    branches = read_branch_list(list_path).branches
    by_name = {branch.name: branch for branch in branches.values()}
    found = []
    for each in which:
        branch = by_name.get(each)
        if branch is None and each.isdecimal() and len(each) < 20:
            branch = branches.get(int(each))
        if branch is None:
            raise NotMet(f"{shown(each)} is not a branch with a URL in {list_path}")
        found.append(branch)
    return list(dict.fromkeys(found))
