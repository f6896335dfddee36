"""Whether a process writes to a spool, as Linux tells it (inotify(7)).

So a forwarder that has nothing to do need not look for events many times a second. Whoever appends
has no part in this: not a right, a version or a moment of its own. That a write was told of does
not mean that it can be read yet, as the commit comes after the write; and that nothing was told
does not mean much where a file system is not one of this kernel's. So whoever watches looks, too.
"""

import ctypes
import os
from io import FileIO
from pathlib import Path

from mirrorfeed.publisher.spool_access import LOCK, LOG, beside

# inotify.h
_MODIFY = 0x2
_ATTRIB = 0x4
"""A link to the file, such as its name, was removed, too."""
_MOVE_SELF = 0x800
_DONT_FOLLOW = 0x2000000
_ONESHOT = 0x80000000
_READ_BYTES = 4096


class SpoolWatch(FileIO):
    """Can be read once somebody has appended to the spool, or has moved or removed its files, since
    it was armed. It tells that once, and then costs those who write nothing, until it is armed
    again."""

    def __init__(self, spool_path: Path) -> None:
        """Raises OSError if files cannot be watched, as where the user has too many watches."""
        # What is appended goes into the log. Of that, attributes do not count: they are set each
        # time that root opens it.
        self._wanted = [
            (os.fsencode(path), what | _MOVE_SELF | _DONT_FOLLOW | _ONESHOT)
            for path, what in (
                (spool_path, _ATTRIB),
                (beside(spool_path, LOCK), _ATTRIB),
                (beside(spool_path, LOG), _MODIFY),
            )
        ]
        try:
            self._libc = ctypes.CDLL(None, use_errno=True)
            opened = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except AttributeError as error:
            raise OSError("this system has no inotify") from error
        super().__init__(_checked(opened))

    def arm(self) -> None:
        """What happens from now on is told. Raises OSError if a file is not there, or cannot be
        watched."""
        for path, what in self._wanted:
            _checked(self._libc.inotify_add_watch(self.fileno(), path, ctypes.c_uint32(what)))

    def disarm(self) -> bool:
        """Whether something was told since the last time. If so, it is not armed any more."""
        has_told = False
        while self.read(_READ_BYTES):
            has_told = True
        return has_told


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
