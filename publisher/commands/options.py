"""The options that several commands on a puller host take."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mirrorfeed.contract import environment
from mirrorfeed.publisher.client import BranchStatusClient, default_spool_path
from mirrorfeed.publisher.neglect import warning_of

SpoolOption = Annotated[
    Path | None,
    typer.Option(
        "--spool",
        envvar=environment.SPOOL,
        help="The spool file. [default: /var/spool/mirrorfeed/spool.db if you can write to that"
        " folder, else one in your state folder]",
        show_default=False,
    ),
]
LimitOption = Annotated[
    int,
    typer.Option(
        "--spool-limit-bytes",
        envvar=environment.SPOOL_LIMIT_BYTES,
        min=1024 * 1024,
        help="The spool takes no more events once it has this size.",
    ),
]
BranchArgument = Annotated[int, typer.Argument(metavar="ID", help="The branch's number.")]


def spool_path(given: Path | None) -> Path:
    return given or default_spool_path()


def spooling_client(spool: Path | None, limit_bytes: int) -> BranchStatusClient:
    """A client that leaves sending to a forwarder. Says so if there has been none for a day."""
    path = spool_path(spool)
    client = BranchStatusClient(path, limit_bytes=limit_bytes, forward=False)
    if warning := warning_of(path, client.status()):
        print(f"mirror-publisher: {warning}", file=sys.stderr)
    return client
