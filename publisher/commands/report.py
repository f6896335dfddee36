"""`mirror-publisher started`, `completed`, `failed`, `script-run`: each reports one event."""

import os
import socket
from datetime import datetime
from typing import Annotated

import typer

from mirrorfeed.publisher.commands.options import (
    BranchArgument,
    LimitOption,
    SpoolOption,
    spooling_client,
)
from mirrorfeed.publisher.commands.program import refuse
from mirrorfeed.publisher.spool import DEFAULT_LIMIT_BYTES

app = typer.Typer()


@app.command()
def started(
    branch_id: BranchArgument,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Report that a mirror attempt of a branch begins now.

    \b
    Example:
      mirror-publisher started 17
    """
    spooling_client(spool, spool_limit_bytes).start_mirroring(branch_id)


@app.command()
def completed(
    branch_id: BranchArgument,
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help="The revision that is mirrored now.")
    ],
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Report that the attempt reported with `started` succeeded.

    \b
    Example:
      mirror-publisher completed 17 "$(git -C /srv/17 rev-parse HEAD)"
    """
    spooling_client(spool, spool_limit_bytes).mirror_complete(branch_id, revision)


@app.command()
def failed(
    branch_id: BranchArgument,
    reason: Annotated[str, typer.Argument(metavar="REASON", help="Why, in words for people.")],
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Report that a mirror attempt of a branch failed. Passwords in URLs are masked.

    \b
    Example:
      mirror-publisher failed 17 "the remote host is unreachable"
    """
    # An argument need not be UTF-8: a half readable reason is better than no report.
    readable = os.fsencode(reason).decode(errors="replace")
    spooling_client(spool, spool_limit_bytes).mirror_failed(branch_id, readable)


@app.command("script-run")
def script_run(
    name: Annotated[str, typer.Argument(help="The script's name.")],
    started: Annotated[str, typer.Option(help="When it began: RFC 3339 with an offset.")],
    completed: Annotated[str, typer.Option(help="When it ended: RFC 3339 with an offset.")],
    hostname: Annotated[
        str | None, typer.Option(help="The host it ran on. [default: this host]")
    ] = None,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Report that a script ran and ended normally.

    \b
    Example:
      mirror-publisher script-run branch-puller --started 2007-07-05T19:32:01Z \\
        --completed 2007-07-05T19:34:24Z
    """
    spooling_client(spool, spool_limit_bytes).record_success(
        name,
        hostname or socket.gethostname(),
        instant_given("--started", started),
        instant_given("--completed", completed),
    )


def instant_given(option: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        refuse(f"{option} {text!r} is not an RFC 3339 time such as 2007-07-05T19:32:01Z")
