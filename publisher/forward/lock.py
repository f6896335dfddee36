"""Which process forwards a spool: the one that holds the lock on a file beside it."""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mirrorfeed.publisher.errors import SpoolError
from mirrorfeed.publisher.forking import fork_lock
from mirrorfeed.publisher.spool_access import LOCK, beside, make_file

LOCKS = Path("/proc/locks")


class ForwarderLock:
    """An exclusive lock, held by one process at a time."""

    def __init__(self, spool_path: Path) -> None:
        self._path = beside(spool_path, LOCK)
        self._descriptor: int | None = None
        self.holder: int | None = None
        """The process that held the lock when it was last asked for. None if this process got it,
        or if the other one cannot be seen from here, as from another container."""

    def acquire(self) -> bool:
        """Whether this process forwards now. Raises SpoolError if the file cannot be opened."""
        if self._descriptor is not None and self.is_at_its_path():
            return True
        self.release()
        with fork_lock:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self.holder = _holder(os.fstat(descriptor).st_ino)
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return False
                raise
            self._descriptor = descriptor
            self.holder = None
            return True

    def _open(self) -> int:
        """Never follows a link: it could make this process write, or wait, somewhere else."""
        try:
            with suppress(FileExistsError):
                make_file(self._path)
            return os.open(self._path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError as error:
            because = (
                "it is a symbolic link; remove it"
                if error.errno == errno.ELOOP
                else f"{error.strerror}; make sure that this user may write to it"
            )
            raise SpoolError(f"the lock file {self._path} cannot be used: {because}") from error

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    def is_at_its_path(self) -> bool:
        """Whether the file that is locked is the one that other processes would lock."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Forwarding(NamedTuple):
    """Whether a process forwards a spool now, and which."""

    is_on: bool
    process: int | None
    """None if there is none, or if it cannot be seen from here."""


def who_forwards(spool_path: Path) -> Forwarding:
    """Asks without taking the lock, but for a moment. Raises OSError if this user may not ask."""
    try:
        descriptor = os.open(beside(spool_path, LOCK), os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return Forwarding(False, None)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Forwarding(True, _holder(os.fstat(descriptor).st_ino))
    finally:
        os.close(descriptor)
    return Forwarding(False, None)


def _holder(inode: int) -> int | None:
    """The process that has locked the file, as Linux tells it (proc_locks(5))."""
    with suppress(OSError):
        for line in LOCKS.read_text().splitlines():
            fields = line.split()  # 1: FLOCK  ADVISORY  WRITE 1234 fe:00:2146369 0 EOF
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                return int(fields[4])
    return None
