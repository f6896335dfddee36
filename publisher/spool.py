"""The durable file that keeps an event safe from the puller's call until the broker's confirm.

One SQLite file in WAL mode. An append commits with `synchronous=FULL`: when it returns, the event
survives a power cut (https://sqlite.org/pragma.html#pragma_synchronous). Any number of processes
may append while one forwarder takes events away.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mirrorfeed.publisher.errors import SpoolBusy, SpoolError, SpoolFull
from mirrorfeed.publisher.forking import close_before_fork, fork_lock
from mirrorfeed.publisher.spool_batch import INTERRUPTED, SpoolBatch, SpoolWriter
from mirrorfeed.publisher.spool_file import SCHEMA_VERSION, create, upgrade, version_of

DEFAULT_LIMIT_BYTES = 1024**3
RESERVED_BYTES = 8 * 1024**2
"""Twice what SQLite writes to its log before merging that into the file."""
BUSY_TIMEOUT_SECONDS = 30.0
COLUMNS = "sequence, message_id, type, partition_key, body"


class SpooledEvent(NamedTuple):
    """One event waiting for the broker."""

    sequence: int
    message_id: str
    type: str
    partition_key: str
    body: bytes


@dataclass(frozen=True)
class SpoolStatus:
    """The account of one spool: spooled = confirmed + pending + refused."""

    source: str
    spooled: int
    confirmed: int
    pending: int
    refused: int
    oldest_pending_seconds: float | None


class Spool:
    """One process's view of a spool file, which is created if there is none.

    Safe to use from several threads and across fork: the connection is closed before a fork and
    opened again after it, as SQLite demands (https://sqlite.org/howtocorrupt.html, section 2.6).

    Every method raises SpoolError if the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        appends: bool = True,
        on_taken_away: Callable[[], None] = lambda: None,
    ) -> None:
        """`limit_bytes` limits the size of the file. `on_taken_away` is called after this object
        has removed or refused events.

        With `appends=False` events are only read and removed: no file is created, no limit applies,
        and a power cut may undo what this object wrote, so that an event is sent twice."""
        self.path = path.absolute()
        self._limit_bytes = limit_bytes
        self._appends = appends
        self._on_taken_away = on_taken_away
        self.lock = threading.RLock()
        self._busy_timeout_seconds = BUSY_TIMEOUT_SECONDS
        self._batch: SpoolBatch | None = None
        self._connection: sqlite3.Connection | None = None
        with fork_lock, self._translated_errors():
            if not self.path.exists():
                if not appends:
                    raise SpoolError(f"there is no spool {self.path}")
                create(self.path)
            self._connect()
            close_before_fork(self)

    def close(self) -> None:
        with self.lock, self._translated_errors():
            self.disconnect()

    @contextmanager
    def writing(self) -> Iterator["SpoolWriter"]:
        """One transaction: everything appended in it is taken, or nothing.

        Raises SpoolFull if there is no room for it.
        """
        with self.lock, self._translated_errors():
            if self._batch is not None:
                with SpoolWriter(self._batch) as writer:
                    yield writer
            else:
                with self._committed(BUSY_TIMEOUT_SECONDS) as batch, SpoolWriter(batch) as writer:
                    yield writer

    @contextmanager
    def group_commit(self, *, timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> Iterator[None]:
        """Every `writing` in this thread inside the block is durable once the block has ended.

        A commit waits for the disk just as long for one event as for many. Each `writing` is still
        taken by itself, as a whole or not at all. But if the block raises, or there is no room for
        all of it, nothing is taken.

        Raises SpoolBusy, before the block begins, if another connection keeps writing for
        `timeout_seconds`.
        """
        with self._committed(timeout_seconds):
            yield

    def pending(self, *, after: int, limit: int) -> list[SpooledEvent]:
        """Events waiting for the broker, from the first one after sequence `after`."""
        with self.lock, self._translated_errors():
            rows = self._connect().execute(
                f"SELECT {COLUMNS} FROM event WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (after, limit),
            )
            return list(map(SpooledEvent._make, rows))

    def event(self, sequence: int) -> SpooledEvent | None:
        """The event with that sequence, if it is waiting for the broker."""
        with self.lock, self._translated_errors():
            rows = self._connect().execute(
                f"SELECT {COLUMNS} FROM event WHERE sequence = ?", (sequence,)
            )
            return next(map(SpooledEvent._make, rows), None)

    def remove(self, sequences: Iterable[int]) -> None:
        """Deletes events that the broker has confirmed, and merges SQLite's log into the file."""
        with self._translated_errors(), self._transaction() as connection:
            removed = connection.executemany(
                "DELETE FROM event WHERE sequence BETWEEN ? AND ?", _ranges(sequences)
            ).rowcount
            if removed > 0:
                connection.execute("UPDATE source SET confirmed = confirmed + ?", (removed,))
        if removed > 0:
            self._on_taken_away()
        with self.lock, self._translated_errors():
            # Otherwise an append does it when the log is long, and takes much longer than others.
            self._connect().execute("PRAGMA wal_checkpoint(PASSIVE)").close()

    def refuse(self, sequence: int, because: str) -> None:
        """Sets aside an event that the broker will never take."""
        with self._translated_errors(), self._transaction() as connection:
            connection.execute(
                f"INSERT INTO refused SELECT {COLUMNS}, spooled_at, ? FROM event"
                " WHERE sequence = ?",
                (because, sequence),
            )
            connection.execute("DELETE FROM event WHERE sequence = ?", (sequence,))
        self._on_taken_away()

    def restore_refused(self) -> int:
        """Makes events that were set aside pending again; returns how many there were."""
        with self._translated_errors(), self._transaction() as connection:
            restored = connection.execute(
                f"INSERT INTO event SELECT {COLUMNS}, spooled_at FROM refused"
            ).rowcount
            connection.execute("DELETE FROM refused")
        return restored

    def status(self) -> SpoolStatus:
        with self.lock, self._translated_errors():
            ((source, spooled, confirmed, refused, oldest),) = self._connect().execute(
                "SELECT uri, last_sequence, confirmed, (SELECT count(*) FROM refused),"
                " (SELECT spooled_at FROM event ORDER BY sequence LIMIT 1) FROM source"
            )
        return SpoolStatus(
            source=source,
            spooled=spooled,
            confirmed=confirmed,
            pending=spooled - confirmed - refused,  # counting many of them would take long
            refused=refused,
            oldest_pending_seconds=None
            if oldest is None
            else round(max(0.0, time.time() - oldest), 3),
        )

    def unconfirmed(self, *, until: int) -> tuple[bool, bool]:
        """Whether an event up to sequence `until` is pending, and whether one is refused."""
        with self.lock, self._translated_errors():
            if self._batch is not None:
                raise SpoolError("flush after the group_commit block: its events are not taken yet")
            (row,) = self._connect().execute(
                "SELECT EXISTS (SELECT * FROM event WHERE sequence <= ?1),"
                " EXISTS (SELECT * FROM refused WHERE sequence <= ?1)",
                (until,),
            )
        return bool(row[0]), bool(row[1])

    @contextmanager
    def _transaction(
        self, timeout_seconds: float = BUSY_TIMEOUT_SECONDS
    ) -> Iterator[sqlite3.Connection]:
        """Errors raised in the block are not translated."""
        with self.lock:
            with self._translated_errors():
                connection = self._connect()
                if connection.in_transaction:
                    raise SpoolError(INTERRUPTED)
            try:
                with self._translated_errors():
                    self._begin(connection, timeout_seconds)
                yield connection
                with self._translated_errors():
                    connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk has already ended the transaction
                    with self._translated_errors():
                        connection.execute("ROLLBACK")
                raise

    def _begin(self, connection: sqlite3.Connection, timeout_seconds: float) -> None:
        if timeout_seconds != self._busy_timeout_seconds:
            connection.execute(f"PRAGMA busy_timeout = {timeout_seconds * 1000:.0f}")
            self._busy_timeout_seconds = timeout_seconds
        connection.execute("BEGIN IMMEDIATE")

    @contextmanager
    def _committed(self, timeout_seconds: float) -> Iterator["SpoolBatch"]:
        """A transaction that writes, at its end, what was put into the batch."""
        with self._transaction(timeout_seconds) as connection:
            with self._translated_errors():
                if self._is_disk_full():
                    raise SpoolFull(self._why_full())
                batch = SpoolBatch(connection)
            try:  # from here on, because an error from a signal handler must not leave it set
                self._batch = batch
                yield batch
            finally:
                self._batch = None
            with self._translated_errors():
                batch.write()

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            with fork_lock:
                self._connection = self._open()
                self._busy_timeout_seconds = BUSY_TIMEOUT_SECONDS
        return self._connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            version = version_of(connection)
            if version == 1:
                version = upgrade(connection)
            if version != SCHEMA_VERSION:
                raise SpoolError(
                    f"{self.path} is not a spool of this version (found {version}, expected"
                    f" {SCHEMA_VERSION}): name another file, or use the version that made it"
                )
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._appends else 'NORMAL'}")
            # Debian's SQLite would overwrite deleted data with zeros, and write those to its log.
            connection.execute("PRAGMA secure_delete = OFF")
            if self._appends:
                page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
                pages = max(1, self._limit_bytes // page_bytes)
                connection.execute(f"PRAGMA max_page_count = {pages}")
        except BaseException:
            connection.close()
            raise
        return connection

    def disconnect(self) -> None:
        """Closes the connection; the next use opens a new one. The caller holds `lock`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _translated_errors(self) -> "_TranslatedErrors":
        return _TranslatedErrors(self)

    def translated(self, error: sqlite3.Error | OSError) -> SpoolError:
        """The error as callers know it."""
        # The low byte; the rest of the code has details that nobody needs here.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return SpoolFull(self._why_full())
        if code == sqlite3.SQLITE_BUSY:
            return SpoolBusy(
                f"the spool {self.path} cannot be used: another process keeps it locked; find out"
                " which one (fuser can tell), then report again"
            )
        return SpoolError(f"the spool {self.path} cannot be used: {error}")

    def _is_disk_full(self) -> bool:
        """The forwarder must write to remove events, so some room on the disk is left for it."""
        disk = os.statvfs(self.path.parent)
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

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, sqlite3.Error | OSError):
            raise self._spool.translated(error) from error


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last of each run without a gap."""
    first = last = None
    for number in sorted(numbers):
        if first is None or last is None:
            first = number
        elif number > last + 1:
            yield first, last
            first = number
        last = number
    if first is not None and last is not None:
        yield first, last
