"""One run at a time for each branch."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mirrorfeed.publisher.errors import PublisherError
from mirrorfeed.publisher.spool_access import beside, make_file, make_folder

MAX_DIGITS = 20


class AlreadyRunning(Exception):
    """Another run of the branch is under way; the message names it."""


@contextmanager
def only_run_of(
    branch_id: int, find_spool: Callable[[], Path], say: Callable[[str], None]
) -> Iterator[list[int]]:
    """Holds the branch's lock during the block: a file beside the spool, so that all runs that
    report to one spool know of each other.

    Gives the files that the command must inherit. Thus the lock outlives this process if that is
    killed, and the command goes on; but a process that the command leaves behind does not keep it.

    If there can be no lock, the block runs without, and says so. Raises AlreadyRunning.
    """
    try:
        spool = find_spool()
        path = beside(spool, f".branch-{branch_id}.lock")
        lock = _open(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _noted(lock)
            os.close(lock)
            raise AlreadyRunning(
                f"branch {branch_id} is already being mirrored, by a command that process"
                f" {holder or 'unknown'} started; nothing was run (lock: {path})"
            ) from error
    except (OSError, PublisherError) as error:
        say(f"running without a lock, another run of the branch may be under way: {error}")
        yield []
        return
    with suppress(OSError):  # it is held even if a full disk does not take who holds it
        os.ftruncate(lock, 0)
        os.write(lock, b"%d\n" % os.getpid())
    try:
        yield [lock]
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _open(path: Path) -> int:
    """Not through a link, and only for those who may use the spool: whoever can open a file can
    lock it."""
    make_folder(path.parent)
    with suppress(FileExistsError):
        make_file(path)
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW)


def _noted(lock: int) -> str:
    """Who holds it, as its file says; empty if that cannot be read."""
    with suppress(OSError):
        return os.read(lock, MAX_DIGITS).decode(errors="replace").strip()
    return ""
