"""Whether anybody sends a spool: one in a place that no forwarder looks at is easily made."""

import os
import time
from contextlib import suppress
from pathlib import Path

from mirrorfeed.contract import environment
from mirrorfeed.publisher.forward.lock import who_forwards
from mirrorfeed.publisher.spool import SpoolStatus
from mirrorfeed.publisher.spool_access import beside, make_file

DAY_SECONDS = 86_400.0
WARNED = ".warned"
"""A file beside the spool that says when somebody was last warned."""


def warning_of(path: Path, status: SpoolStatus) -> str | None:
    """What whoever reports should know, at most once a day: events have waited for a day, and no
    forwarder runs. Raises nothing."""
    waited_seconds = status.oldest_pending_seconds
    if waited_seconds is None or waited_seconds < DAY_SECONDS:
        return None
    with suppress(OSError):  # a warning is not worth a failure
        if not who_forwards(path).is_on and _note_warning(beside(path, WARNED)):
            days = int(waited_seconds / DAY_SECONDS)
            return (
                f"nobody sends the spool {path}: {status.pending:,} events wait, the first for"
                f" {days} day{'s' * (days > 1)}; run mirror-publisher forward for it, or name the"
                f" spool that is forwarded with {environment.SPOOL}"
            )
    return None


def _note_warning(note: Path) -> bool:
    """Whether nobody was warned for a day; from now on somebody was."""
    with suppress(FileExistsError):
        make_file(note)
        return True
    if time.time() - note.lstat().st_mtime < DAY_SECONDS:
        return False
    os.utime(note, follow_symlinks=False)
    return True
