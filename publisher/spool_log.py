"""SQLite's log beside a spool, in which a commit survives a power cut once it is synced."""

import os
from pathlib import Path
from typing import Self

from mirrorfeed.publisher.spool_access import LOG, beside


class SpoolLog:
    """The log that was there when it was opened.

    Closing it does no harm: SQLite's locks, which POSIX drops when a process closes a file, are on
    the spool's other files (https://sqlite.org/walformat.html).
    """

    def __init__(self, path: Path, descriptor: int, opened: os.stat_result) -> None:
        self.path = path
        self._descriptor = descriptor
        self._opened = opened
        self.size_bytes = opened.st_size
        """When it was last looked for at its path."""

    @classmethod
    def of(cls, spool: Path) -> Self:
        """Raises OSError."""
        path = beside(spool, LOG)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        return cls(path, descriptor, os.fstat(descriptor))

    def duplicate(self) -> Self:
        """The same log, to be closed by itself. Raises OSError."""
        return type(self)(self.path, os.dup(self._descriptor), self._opened)

    def close(self) -> None:
        os.close(self._descriptor)

    def is_at_its_path(self) -> bool:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        self.size_bytes = found.st_size
        return os.path.samestat(found, self._opened)

    def sync(self) -> None:
        """Waits until all that is in it is on the disk. Raises OSError."""
        # As SQLite does: when a file was written need not be on the disk.
        getattr(os, "fdatasync", os.fsync)(self._descriptor)
