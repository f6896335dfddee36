"""SQLite's log beside a spool, in which a commit survives a power cut once it is synced."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Self

from mirrorfeed.publisher.spool_access import LOG, UNSYNCED, beside, make_file


class SpoolLog:
    """The log that was there when it was opened.

    Closing it does no harm: SQLite's locks, which POSIX drops when a process closes a file, are on
    the spool's other files (https://sqlite.org/walformat.html).
    """

    def __init__(self, path: Path, unsynced: Path) -> None:
        """Raises OSError."""
        self.path = path
        self._unsynced = unsynced
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        self.opened = os.fstat(self._descriptor)
        self.size_bytes = self.opened.st_size
        """When it was last looked for at its path."""

    @classmethod
    def of(cls, spool: Path) -> Self:
        """Raises OSError."""
        return cls(beside(spool, LOG), beside(spool, UNSYNCED))

    def reopened(self) -> Self | None:
        """The same log, to be synced and closed by itself; None if it is not at its path any more.

        Linux tells each opening of a file only once that it could not be written (fsync(2)). So two
        calls must not share one: the first would be told, and the other would take it for written.
        Raises OSError.
        """
        try:
            found = type(self)(self.path, self._unsynced)
        except FileNotFoundError:
            return None
        self.size_bytes = found.size_bytes
        if os.path.samestat(found.opened, self.opened):
            return found
        found.close()
        return None

    def close(self) -> None:
        os.close(self._descriptor)

    def is_at_its_path(self) -> bool:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        self.size_bytes = found.st_size
        return os.path.samestat(found, self.opened)

    def sync(self) -> None:
        """Waits until all that is in it is on the disk. Raises OSError."""
        _sync(self._descriptor)

    @property
    def may_have_gap(self) -> bool:
        """Whether a sync has failed, in whichever process, and the log was not merged since. A
        power cut would take whatever is behind the gap."""
        return os.path.lexists(self._unsynced)

    def note_gap(self) -> None:
        """Tells all processes that a sync has failed. That need not survive a power cut: SQLite
        then reads the log up to the gap, and goes on from there."""
        with suppress(OSError):  # it is there already; or the disk takes nothing at all
            make_file(self._unsynced)

    def try_disk(self) -> None:
        """Copies the log beside it. If the disk does not take that, it must not be given the same
        to put into the file: it would have a part of each. Raises OSError."""
        with self.path.open("rb") as log, self._unsynced.open("wb") as copy:
            shutil.copyfileobj(log, copy)
            copy.flush()
            _sync(copy.fileno())

    def forget_gap(self) -> None:
        """Raises OSError."""
        self._unsynced.unlink(missing_ok=True)


def _sync(descriptor: int) -> None:
    # As SQLite does: when a file was written need not be on the disk.
    getattr(os, "fdatasync", os.fsync)(descriptor)
