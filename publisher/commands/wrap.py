"""`mirror-publisher run` and `run-script`: a command runs, and what becomes of it is reported."""

import socket
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mirrorfeed.contract.events import MAX_NAME_LENGTH, check_text, shown
from mirrorfeed.publisher.commands.options import LimitOption, SpoolOption, spooling_client
from mirrorfeed.publisher.spool import DEFAULT_LIMIT_BYTES

if TYPE_CHECKING:
    from mirrorfeed.publisher.command import Ended

app = typer.Typer()


@app.command()
def run(
    branch: Annotated[int, typer.Option(metavar="ID", help="The branch's number.")],
    command: Annotated[list[str], typer.Argument(help="The mirror command, after --.")],
    revision_command: Annotated[
        str | None,
        typer.Option(help="A shell command that prints the revision that is mirrored now."),
    ] = None,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Run a mirror command, report its start and end, and exit with its code.

    If it fails, the last line it wrote to standard error is reported as the reason.

    \b
    Example:
      mirror-publisher run --branch 17 \\
        --revision-command "git -C /srv/17 rev-parse HEAD" \\
        -- git -C /srv/17 fetch --prune
    """
    from mirrorfeed.publisher.command import PassedOnSignals, output_of, run_command

    client = spooling_client(spool, spool_limit_bytes)
    try:
        with PassedOnSignals() as signals, client.mirroring(branch) as attempt:
            ended = run_command(command, signals)
            if ended.failure is not None:
                raise CommandFailed(ended)
            if revision_command is not None:
                attempt.revision_id = output_of(revision_command, signals)
                if attempt.revision_id is None:
                    print(
                        f"mirror-publisher: {shown(revision_command)} printed no revision; the"
                        " branch is reported as mirrored without one",
                        file=sys.stderr,
                    )
    except CommandFailed as error:
        raise typer.Exit(error.ended.exit_code) from None


@app.command("run-script")
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
    from mirrorfeed.publisher.command import PassedOnSignals, run_command

    check_text("name", name, at_least=1, at_most=MAX_NAME_LENGTH)
    client = spooling_client(spool, spool_limit_bytes)
    started_at = datetime.now(UTC)
    with PassedOnSignals() as signals:
        ended = run_command(command, signals)
        if ended.failure is not None:
            raise typer.Exit(ended.exit_code)
        completed_at = max(datetime.now(UTC), started_at)
        client.record_success(name, socket.gethostname(), started_at, completed_at)


class CommandFailed(Exception):
    """The mirror command did not succeed; the text is the reason to report."""

    def __init__(self, ended: "Ended") -> None:
        super().__init__(ended.failure)
        self.ended = ended
