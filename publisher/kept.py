"""What the broker has confirmed, kept for a while: a database that is restored from a backup, or a
queue that is purged, has lost it.

Confirmed events are appended to files beside the spool, without waiting for the disk: this must not
slow a forwarder down. A power cut may take the last of them.
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import BinaryIO, NamedTuple

from mirrorfeed.contract.wire import MAX_BODY_BYTES
from mirrorfeed.publisher.spool import SpooledEvent
from mirrorfeed.publisher.spool_access import beside, make_file, make_folder_within

KEEP_SECONDS = 7 * 86_400.0
KEEP_LIMIT_BYTES = 256 * 1024**2
FOLDER = ".sent"
FILE_SECONDS = 3600.0
"""After this long, or with this much in it, another file is begun: whole files are deleted."""
FILE_BYTES = 16 * 1024**2
FREE_BYTES = 64 * 1024**2
"""With less room on the disk nothing is kept: what has not been sent yet needs it more."""
HEADER = Struct(">dqI")
"""Before each body: when it was confirmed (seconds since 1970), its place in the spool, its length.
The body itself says all the rest."""


class KeptEvent(NamedTuple):
    """An event that the broker has confirmed."""

    confirmed_at: float
    """Seconds since 1970, by this host's clock."""
    sequence: int
    """Its place in the spool."""
    body: bytes


class KeptEvents:
    """The events of one spool. For the one process that forwards it."""

    def __init__(self, spool_path: Path, *, keep_seconds: float, limit_bytes: int) -> None:
        """Keeps nothing if `keep_seconds` is 0."""
        self._folder = beside(spool_path, FOLDER)
        self._keep_seconds = keep_seconds
        self._limit_bytes = limit_bytes
        self._file: BinaryIO | None = None
        self._size_bytes = 0
        self._close_at = 0.0

    def add(self, events: Sequence[SpooledEvent]) -> None:
        """Keeps these, and forgets what there is no room for. Raises OSError."""
        if not self._keep_seconds or not events:
            return
        if not self._has_room():
            return
        now = time.time()
        file = self._open(now)
        parts: list[bytes] = []
        for event in events:
            parts += (HEADER.pack(now, event.sequence, len(event.body)), event.body)
        self._size_bytes += file.write(b"".join(parts))
        file.flush()

    def _has_room(self) -> bool:
        disk = os.statvfs(self._folder.parent)
        has_room = disk.f_bavail * disk.f_frsize >= FREE_BYTES
        if not has_room:
            self.close()
            for path in files_of(self._folder):
                path.unlink()
        return has_room

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _open(self, now: float) -> BinaryIO:
        if self._file is not None and now < self._close_at and self._size_bytes < FILE_BYTES:
            return self._file
        self.close()
        make_folder_within(self._folder)
        path = self._folder / f"{time.time_ns():020}"
        make_file(path)
        self._file = path.open("ab")
        self._size_bytes, self._close_at = 0, now + FILE_SECONDS
        self._forget(now)
        return self._file

    def _forget(self, now: float) -> None:
        """Deletes files of which all is too old, and the oldest until there is room."""
        left_bytes = self._limit_bytes - FILE_BYTES
        for path in sorted(files_of(self._folder), reverse=True):
            found = path.stat()
            left_bytes -= found.st_size
            if left_bytes < 0 or found.st_mtime < now - self._keep_seconds:
                path.unlink()


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def kept_events(spool_path: Path) -> Iterator[KeptEvent]:
    """All that is kept of a spool, the first confirmed first. What a power cut left half written is
    passed over, but a body may be damaged all the same. Raises OSError."""
    for path in sorted(files_of(beside(spool_path, FOLDER))):
        try:
            file = path.open("rb")
        except FileNotFoundError:  # the forwarder has forgotten it meanwhile
            continue
        with file:
            while len(header := file.read(HEADER.size)) == HEADER.size:
                confirmed_at, sequence, length = HEADER.unpack(header)
                if not confirmed_at or not length:
                    break  # zeros in place of what was not on the disk yet
                body = file.read(min(length, MAX_BODY_BYTES))
                if len(body) != length:
                    break
                yield KeptEvent(confirmed_at, sequence, body)
