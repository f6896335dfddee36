"""A word now and then from a spool that is quiet.

Without it nobody could tell a quiet host from a dead one, and if the latest events of a spool never
arrived, nothing would show that.
"""

import logging
import os
import socket
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from mirrorfeed.contract.events import SpoolHeartbeat
from mirrorfeed.publisher.errors import SpoolError
from mirrorfeed.publisher.spool import Spool
from mirrorfeed.publisher.spool_access import LOG, beside

HEARTBEAT_SECONDS = 3600.0
BUSY_SECONDS = 0.5
"""How long it waits for others that write to the spool: then that is not quiet."""

logger = logging.getLogger(__name__)


def beat_if_quiet(path: Path, interval_seconds: float) -> bool:
    """Appends a heartbeat if nothing was written to the spool for that long, and says whether it
    did. Never if the interval is 0."""
    if not interval_seconds or not _is_quiet(path, interval_seconds):
        return False
    try:
        with closing(Spool(path)) as spool:
            _beat(spool)
    except SpoolError as error:  # a full spool is not quiet either
        logger.warning("no heartbeat: %s", error)
        return False
    return True


def _is_quiet(path: Path, interval_seconds: float) -> bool:
    written_at = max(
        (file.stat().st_mtime for file in (path, beside(path, LOG)) if os.path.lexists(file)),
        default=None,
    )
    # A clock that was set back must not silence it.
    return written_at is not None and not 0 <= time.time() - written_at < interval_seconds


def _beat(spool: Spool) -> None:
    status = spool.status()
    now = datetime.now(UTC)
    waited = status.oldest_pending_seconds
    heartbeat = SpoolHeartbeat(
        hostname=socket.gethostname(),
        version=version("mirrorfeed"),
        pending=status.pending,
        oldest_pending_at=None if waited is None else now - timedelta(seconds=waited),
        refused=status.refused,
    )
    with spool.group_commit(timeout_seconds=BUSY_SECONDS), spool.writing() as writer:
        writer.append(heartbeat, occurred_at=now)
