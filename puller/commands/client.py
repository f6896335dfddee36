"""The client that a command of the puller reports with."""

import socket
from pathlib import Path

from mirrorfeed.publisher.client import BranchStatusClient
from mirrorfeed.publisher.commands.options import spool_path
from mirrorfeed.puller.reports import Reports, Say


def open_reports(
    spool: Path | None, limit_bytes: int, amqp_url: str, *, forwards: bool, say: Say
) -> Reports:
    """Opens nothing yet: a spool that cannot be used must not keep anything from being mirrored."""

    def open_client() -> BranchStatusClient:
        return BranchStatusClient(
            spool_path(spool), amqp_url, limit_bytes=limit_bytes, forward=forwards
        )

    return Reports(open_client, say, socket.gethostname())
