"""A word now and then from a spool that is quiet.

Without it nobody could tell a quiet host from a dead one, and if the latest events of a spool never
arrived, nothing would show that.
"""

import logging
import math
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


class Heartbeats:
    """Those of one spool."""

    def __init__(self, path: Path, interval_seconds: float) -> None:
        """There are none if `interval_seconds` is 0."""
        self._path = path
        self._interval_seconds = interval_seconds
        self._tried_at = -math.inf

    def beat_if_quiet(self) -> bool:
        """Appends a heartbeat if nothing was written to the spool for the interval, and says
        whether it did. It does not try more often than that, whatever the files or the clock say:
        a spool that is full stays quiet."""
        now = time.monotonic()
        if not self._interval_seconds or now - self._tried_at < self._interval_seconds:
            return False
        if not _is_quiet(self._path, self._interval_seconds):
            return False
        self._tried_at = now
        try:
            with closing(Spool(self._path)) as spool:
                _beat(spool)
        except SpoolError as error:
            logger.warning("no heartbeat: %s", error)
            return False
        return True


def _is_quiet(path: Path, interval_seconds: float) -> bool:
    files = [file for file in (path, beside(path, LOG)) if os.path.lexists(file)]
    now = time.time()
    # A clock that was set back must not silence it: times in the future do not count.
    return bool(files) and not any(
        0 <= now - file.stat().st_mtime < interval_seconds for file in files
    )


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
