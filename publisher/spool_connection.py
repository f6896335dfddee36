"""A process's connection to the file that is at a spool's path."""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mirrorfeed.contract.sqlite_uri import sqlite_uri
from mirrorfeed.publisher.errors import SpoolBusy, SpoolError, SpoolFull
from mirrorfeed.publisher.forking import close_before_fork, fork_lock
from mirrorfeed.publisher.spool_access import check_log, check_rights, close_to_others
from mirrorfeed.publisher.spool_batch import INTERRUPTED
from mirrorfeed.publisher.spool_file import (
    SCHEMA_VERSION,
    UPGRADES,
    become_new_source,
    create,
    upgrade,
    version_of,
)
from mirrorfeed.publisher.spool_log import SpoolLog

RESERVED_BYTES = 8 * 1024**2
"""Twice what SQLite writes to its log before merging that into the file."""
BUSY_TIMEOUT_SECONDS = 30.0
BUSY_SLICE_SECONDS = 0.003
"""SQLite asks for a lock again after 1 ms, 2 ms, 5 ms and so on, up to 100 ms. Whoever has waited
among many for long would hardly ever get it. So SQLite waits for this long, and is asked again."""
LOG_TIMEOUT_SECONDS = 0.1
"""How long a spool near its limit waits for others before it merges its log."""
FRAME_HEADER_BYTES = 24
"""What the log needs for a page, beside the page."""

logger = logging.getLogger(__name__)


class SpoolConnection:
    """Opened when it is needed, and again after a fork, as SQLite demands
    (https://sqlite.org/howtocorrupt.html, section 2.6).

    SQLite goes on writing to a file that was removed or replaced, and what it writes is lost. So
    whoever appends looks at the path first, opens what is there now, and commits nothing to any
    other file.

    A commit is synced once SQLite's lock is free again, so that others write meanwhile, and their
    waits for the disk become one. Until then others can see what a power cut may take back. If a
    sync fails, the log is merged into the file before anything else is written to it.
    """

    def __init__(self, path: Path, *, limit_bytes: int, appends: bool) -> None:
        # One spool must not have two names, as each name would have a lock for the forwarder.
        self.path = Path(os.path.realpath(path))
        self.lock = threading.RLock()
        self._folder = self.path.parent
        self._limit_bytes = limit_bytes
        self._appends = appends
        self._busy_timeout_seconds = BUSY_TIMEOUT_SECONDS
        self._connection: sqlite3.Connection | None = None
        self._opened: os.stat_result | None = None
        self._log: SpoolLog
        self._is_stale = False
        self._spool_bytes = 0
        with fork_lock, self.translated_errors():
            self._connect()
            close_before_fork(self)

    def current(self) -> sqlite3.Connection:
        """A connection that appends is to the file that is at the path now, any other one to the
        file that it has been to from the start. The caller holds `lock`."""
        connection = self._current()
        if not connection.in_transaction:
            self._set_busy_timeout(connection, BUSY_TIMEOUT_SECONDS)
        return connection

    def _current(self) -> sqlite3.Connection:
        connection = self._connect()
        if not self._appends or connection.in_transaction:
            return connection
        if self._is_stale or not self._is_spool_at_path():
            logger.error(
                "the files of the spool %s were removed or replaced while in use; going on with"
                " those that are there now",
                self.path,
            )
            self.disconnect()
            connection = self._connect()
        return connection

    def is_at_its_path(self) -> bool:
        """Whether the files that are open are still the ones at the path."""
        if self._connection is None:
            return True  # closed before a fork
        return self._is_spool_at_path() and self._log.is_at_its_path()

    def _is_spool_at_path(self) -> bool:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        self._spool_bytes = found.st_size
        return self._opened is not None and os.path.samestat(found, self._opened)

    @contextmanager
    def transaction(
        self, timeout_seconds: float = BUSY_TIMEOUT_SECONDS, *, needs_room: bool = False
    ) -> Iterator[sqlite3.Connection]:
        """If this connection appends, what the block has written survives a power cut once the
        block has ended.

        Errors raised in the block are not translated. Raises SpoolBusy, and SpoolFull if
        `needs_room` and there is none."""
        log: SpoolLog | None = None
        with self.lock:
            with self.translated_errors():
                connection = self._current()
                if connection.in_transaction:
                    raise SpoolError(INTERRUPTED)
                if self._log.may_have_gap:
                    self._merge_log(connection)
                if needs_room:
                    self._check_room(connection)
            try:
                with self.translated_errors():
                    self._begin(connection, timeout_seconds)
                yield connection
                with self.translated_errors():
                    log = self._log.reopened() if self._is_spool_at_path() else None
                    if log is None:
                        self._is_stale = True
                        raise SpoolError(
                            f"the spool {self.path} was removed or replaced during the call:"
                            " report again"
                        )
                    self._commit(connection)
            except BaseException:
                if log is not None:
                    log.close()
                with self.translated_errors():  # a fork may have closed it
                    if connection.in_transaction:  # a full disk has already ended the transaction
                        connection.execute("ROLLBACK")
                raise
        try:
            if self._appends:
                self._settle(log)
        finally:
            log.close()

    def _begin(self, connection: sqlite3.Connection, timeout_seconds: float) -> None:
        self._set_busy_timeout(connection, min(timeout_seconds, BUSY_SLICE_SECONDS))
        give_up_at = time.monotonic() + timeout_seconds
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= give_up_at:
                    raise
            else:
                return

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if _code(error) == sqlite3.SQLITE_IOERR:  # when it begins a log, SQLite syncs that
                self._log.note_gap()
            raise

    def _settle(self, log: SpoolLog) -> None:
        """Waits until the disk has what is in the log. Raises SpoolError."""
        reason: object = "an earlier write to its log has failed"
        try:
            log.sync()
        except OSError as error:
            log.note_gap()
            reason = error
        else:
            if not log.may_have_gap:
                return
        try:
            with self.lock, self.translated_errors():
                self._merge_log(self._connect())
        except SpoolError as error:
            raise SpoolError(
                f"the disk did not take what was written to the spool {self.path}: {reason}; report"
                " again (the event may come twice)"
            ) from error

    def _merge_log(self, connection: sqlite3.Connection) -> None:
        """After a sync that failed, the log on the disk may have a gap, and a power cut would take
        whatever is behind it. To write it once more does not help: ext4 (Linux 6.18) then says that
        it is written, and reads zeros after a power cut. So it is merged into the file, and begun
        anew.

        Raises SpoolError, and errors to be translated."""
        self._log.try_disk()
        self._set_busy_timeout(connection, LOG_TIMEOUT_SECONDS)
        try:
            is_merged = _truncate_log(connection)
        except sqlite3.OperationalError:  # SQLite, too, had yet to be told of the failed write
            is_merged = _truncate_log(connection)
        if not is_merged:
            raise SpoolError(
                f"the disk did not take the log {self._log.path}, and that cannot be merged into"
                " the spool because another process keeps reading it (fuser can tell which one)"
            )
        # Until this is on the disk, the old log might come back, and with it older pages.
        with closing(SpoolLog.of(self.path)) as log:
            log.sync()
        self._log.forget_gap()

    def sync(self) -> None:
        """Waits until whatever can be read in the file would survive a power cut. Raises
        SpoolError."""
        with self.lock:
            self._connect()
            self._settle(self._log)

    def _set_busy_timeout(self, connection: sqlite3.Connection, timeout_seconds: float) -> None:
        if timeout_seconds != self._busy_timeout_seconds:
            connection.execute(f"PRAGMA busy_timeout = {timeout_seconds * 1000:.0f}")
            self._busy_timeout_seconds = timeout_seconds

    def _check_room(self, connection: sqlite3.Connection) -> None:
        """Raises SpoolFull if the disk is full, or if the file and its log have reached the limit.

        The log grows without end while somebody reads the spool and does not stop, because it
        cannot be merged beyond what that reader sees.
        """
        if self._is_disk_full():
            raise SpoolFull(self._why_full())
        if self._spool_bytes + self._log.size_bytes <= self._limit_bytes:
            return
        if self._log.size_bytes <= self._room_for_log(connection):
            return
        self._set_busy_timeout(connection, LOG_TIMEOUT_SECONDS)
        ((_, frames, merged),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        log_bytes = frames * (_number(connection, "page_size") + FRAME_HEADER_BYTES)
        if merged < frames and log_bytes > self._room_for_log(connection):
            raise SpoolFull(
                f"the spool {self.path} is full, its limit is {self._limit_bytes} bytes: its log"
                f" {self._log.path} has {log_bytes}, and is not merged into it because another"
                " process keeps reading it (fuser can tell which one)"
            )

    def _room_for_log(self, connection: sqlite3.Connection) -> int:
        """What the file leaves of the limit. A file that was full once keeps its size; then the log
        has as much room as the file has inside, but no more than it needs in good times."""
        pages = _number(connection, "page_count") - _number(connection, "freelist_count")
        inside = self._limit_bytes - pages * _number(connection, "page_size")
        return max(self._limit_bytes - self._spool_bytes, min(inside, RESERVED_BYTES))

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            with fork_lock:
                self._connection = self._open()
                self._busy_timeout_seconds = BUSY_TIMEOUT_SECONDS
        return self._connection

    def _open(self) -> sqlite3.Connection:
        check_rights(self.path)
        if not self.path.exists():
            if not self._appends:
                raise SpoolError(f"there is no spool {self.path}")
            create(self.path)
        check_log(self.path)
        close_to_others(self.path)
        before = self.path.stat()
        connection = sqlite3.connect(
            sqlite_uri(self.path, "rw"),
            uri=True,
            timeout=BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._set_up(connection)
            self._note_opened(before)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        version = version_of(connection)
        if version in UPGRADES:
            version = upgrade(connection, self.path)
        if version != SCHEMA_VERSION:
            raise SpoolError(
                f"{self.path} is not a spool of this version (found {version}, expected"
                f" {SCHEMA_VERSION}): name another file, or use the version that made it"
            )
        connection.execute("PRAGMA journal_mode = WAL")  # a backup may have left it out
        # FULL would sync each commit, as `transaction` does, but would keep SQLite's lock for it.
        connection.execute("PRAGMA synchronous = NORMAL")
        # Debian's SQLite would overwrite deleted data with zeros, and write those to its log.
        connection.execute("PRAGMA secure_delete = OFF")
        if self._appends:
            pages = max(1, self._limit_bytes // _number(connection, "page_size"))
            connection.execute(f"PRAGMA max_page_count = {pages}")
            become_new_source(connection, self.path)

    def _note_opened(self, spool: os.stat_result) -> None:
        """Raises SpoolError if the file at the path is no longer the one that was to be opened, or
        not the one that somebody who only reads and removes events has begun with."""
        if self._appends or self._opened is None:
            self._opened = spool
        if not self._is_spool_at_path() or not os.path.samestat(spool, self._opened):
            raise SpoolError(f"the spool {self.path} was removed or replaced: open it again")
        self._log = SpoolLog.of(self.path)
        self._is_stale = False

    def disconnect(self) -> None:
        """Closes the connection; the next use opens a new one. The caller holds `lock`."""
        if self._connection is not None:
            self._log.close()
            self._connection.close()
            self._connection = None

    def translated_errors(self) -> "_TranslatedErrors":
        return _TranslatedErrors(self)

    def translated(self, error: sqlite3.Error | OSError) -> SpoolError:
        """The error as callers know it."""
        if _code(error) == sqlite3.SQLITE_FULL:
            return SpoolFull(self._why_full())
        if _is_busy(error):
            return SpoolBusy(
                f"the spool {self.path} cannot be used: another process keeps it locked; find out"
                " which one (fuser can tell), then report again"
            )
        return SpoolError(f"the spool {self.path} cannot be used: {error}")

    def _is_disk_full(self) -> bool:
        """The forwarder must write to remove events, so some room on the disk is left for it."""
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize < RESERVED_BYTES

    def _why_full(self) -> str:
        if self._is_disk_full():
            return (
                f"the disk under the spool {self.path} is full: free at least"
                f" {RESERVED_BYTES} bytes on it"
            )
        return (
            f"the spool {self.path} is full, its limit is {self._limit_bytes} bytes: make sure that"
            " a forwarder runs and reaches the broker, or raise the limit"
        )


class _TranslatedErrors:
    """A context, used by every call, that turns SQLite's errors into the spool's own."""

    def __init__(self, connection: SpoolConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, sqlite3.Error | OSError):
            raise self._connection.translated(error) from error


def _code(error: sqlite3.Error | OSError) -> int:
    """SQLite's, without the details in its higher bytes; 0 if it is not SQLite's error."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_busy(error: sqlite3.Error | OSError) -> bool:
    return _code(error) == sqlite3.SQLITE_BUSY


def _truncate_log(connection: sqlite3.Connection) -> bool:
    """Whether all of the log was merged into the file; not if others are reading it."""
    ((is_busy, *_),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return not is_busy


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    ((number,),) = connection.execute(f"PRAGMA {pragma}")
    return int(number)
