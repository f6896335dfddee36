"""What a command of the puller needs: programs, and the client that it reports with."""

import shutil
import socket
from collections.abc import Iterable
from pathlib import Path

from mirrorfeed.publisher.client import BranchStatusClient
from mirrorfeed.publisher.commands.options import spool_path
from mirrorfeed.puller.branch_list import Branch, Vcs
from mirrorfeed.puller.errors import PullerError
from mirrorfeed.puller.reports import Reports, Say

GATHER_SECONDS = 0.1
"""How long events are gathered before they are sent: a pass reports hundreds a second."""


def check_programs(branches: Iterable[Branch]) -> None:
    """Raises PullerError if a program is missing without which the puller is of no use."""
    if shutil.which("git") is None and any(branch.vcs is Vcs.GIT for branch in branches):
        raise PullerError("git is not installed: install it (apt-get install git)")


def open_reports(
    spool: Path | None, limit_bytes: int, amqp_url: str, *, forwards: bool, say: Say
) -> Reports:
    """A spool that cannot be used keeps nothing from being mirrored. Raises ValueError for a
    broker's URL that cannot be used."""

    def open_client() -> BranchStatusClient:
        return BranchStatusClient(
            spool_path(spool),
            amqp_url,
            limit_bytes=limit_bytes,
            forward=forwards,
            gather_seconds=GATHER_SECONDS,
        )

    reports = Reports(open_client, say, socket.gethostname())
    reports.open()
    return reports
