"""The durable file that keeps an event safe from the puller's call until the broker's confirm.

One SQLite file in WAL mode. An append commits, and then syncs SQLite's log: when it returns, the
event survives a power cut, as it would with `synchronous=FULL`
(https://sqlite.org/pragma.html#pragma_synchronous). Any number of processes may append while one
forwarder takes events away.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mirrorfeed.publisher.errors import SpoolError
from mirrorfeed.publisher.spool_batch import SpoolBatch, SpoolWriter
from mirrorfeed.publisher.spool_connection import BUSY_TIMEOUT_SECONDS, SpoolConnection

DEFAULT_LIMIT_BYTES = 1024**3
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
    last_confirmed_at: datetime | None
    """When the broker last confirmed an event."""


class Spool:
    """One process's view of a spool file, which is created if there is none.

    Safe to use from several threads, across fork, and while the file is removed or replaced.

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
        """`limit_bytes` limits the size of the file with its log. `on_taken_away` is called after
        this object has removed or refused events.

        With `appends=False` events are only read and removed: no file is created, no limit applies,
        and a power cut may undo what this object wrote, so that an event is sent twice. It stays
        with its file even if that is removed: see `is_at_its_path`."""
        self._file = SpoolConnection(path, limit_bytes=limit_bytes, appends=appends)
        self._on_taken_away = on_taken_away
        self._batch: SpoolBatch | None = None
        self._settled = 0

    @property
    def path(self) -> Path:
        """Without links."""
        return self._file.path

    def is_at_its_path(self) -> bool:
        """Whether the file in use is the one at the path, not one that was removed or replaced."""
        with self._file.translated_errors():
            return self._file.is_at_its_path()

    def close(self) -> None:
        with self._file.lock, self._file.translated_errors():
            self._file.disconnect()

    @contextmanager
    def writing(self) -> Iterator["SpoolWriter"]:
        """One transaction: everything appended in it is taken, or nothing.

        Raises SpoolFull if there is no room for it.
        """
        with self._file.lock, self._file.translated_errors():
            if self._batch is not None:
                with SpoolWriter(self._batch) as writer:
                    yield writer
                return
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
        with self._file.lock, self._file.translated_errors():
            rows = self._file.current().execute(
                f"SELECT {COLUMNS} FROM event WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (after, limit),
            )
            return list(map(SpooledEvent._make, rows))

    def sync(self) -> None:
        """Waits until whatever was pending survives a power cut. Before that it must not be sent:
        its number might be given out again."""
        with self._file.translated_errors():
            self._file.sync()

    def event(self, sequence: int) -> SpooledEvent | None:
        """The event with that sequence, if it is waiting for the broker."""
        with self._file.lock, self._file.translated_errors():
            rows = self._file.current().execute(
                f"SELECT {COLUMNS} FROM event WHERE sequence = ?", (sequence,)
            )
            return next(map(SpooledEvent._make, rows), None)

    def remove(self, sequences: Iterable[int]) -> None:
        """Deletes events that the broker has confirmed, and merges SQLite's log into the file."""
        with self._file.translated_errors(), self._file.transaction() as connection:
            removed = connection.executemany(
                "DELETE FROM event WHERE sequence BETWEEN ? AND ?", _ranges(sequences)
            ).rowcount
            if removed > 0:
                connection.execute(
                    "UPDATE source SET confirmed = confirmed + ?, confirmed_at = ?",
                    (removed, time.time()),
                )
        if removed > 0:
            self._settled += removed
            self._on_taken_away()
        with self._file.lock, self._file.translated_errors():
            # Otherwise an append does it when the log is long, and takes much longer than others.
            self._file.current().execute("PRAGMA wal_checkpoint(PASSIVE)").close()

    def refuse(self, sequence: int, because: str) -> None:
        """Sets aside an event that the broker will never take."""
        with self._file.translated_errors(), self._file.transaction() as connection:
            connection.execute(
                f"INSERT INTO refused SELECT {COLUMNS}, spooled_at, ? FROM event"
                " WHERE sequence = ?",
                (because, sequence),
            )
            refused = connection.execute(
                "DELETE FROM event WHERE sequence = ?", (sequence,)
            ).rowcount
        self._settled += refused
        self._on_taken_away()

    def settled_by_others(self) -> int:
        """How many events others than this object have removed or refused, less those that they
        have made pending again."""
        with self._file.lock, self._file.translated_errors():
            ((settled,),) = self._file.current().execute(
                "SELECT confirmed + (SELECT count(*) FROM refused) FROM source"
            )
        return int(settled) - self._settled

    def restore_refused(self) -> int:
        """Makes events that were set aside pending again; returns how many there were."""
        with self._file.translated_errors(), self._file.transaction() as connection:
            restored = connection.execute(
                f"INSERT INTO event SELECT {COLUMNS}, spooled_at FROM refused"
            ).rowcount
            connection.execute("DELETE FROM refused")
        return restored

    def put_back(self, events: Iterable[SpooledEvent]) -> int:
        """Makes events pending again that the broker has confirmed, and that still are this
        spool's; returns how many were not pending. Raises SpoolFull."""
        with (
            self._file.transaction(needs_room=True) as connection,
            self._file.translated_errors(),
        ):
            put = connection.executemany(
                f"INSERT OR IGNORE INTO event ({COLUMNS}, spooled_at) VALUES (?, ?, ?, ?, ?, ?)",
                [(*event, time.time()) for event in events],
            ).rowcount
            connection.execute("UPDATE source SET confirmed = confirmed - ?", (put,))
        return put

    def open_attempts(self) -> dict[int, datetime]:
        """When the latest attempt of each branch began, if its end was not spooled."""
        with self._file.lock, self._file.translated_errors():
            rows = self._file.current().execute(
                "SELECT branch_id, started_at FROM attempt WHERE is_open"
            )
            return {branch_id: datetime.fromisoformat(at) for branch_id, at in rows}

    def status(self) -> SpoolStatus:
        with self._file.lock, self._file.translated_errors():
            ((source, spooled, confirmed, refused, oldest, at),) = self._file.current().execute(
                "SELECT uri, last_sequence, confirmed, (SELECT count(*) FROM refused),"
                " (SELECT spooled_at FROM event ORDER BY sequence LIMIT 1), confirmed_at"
                " FROM source"
            )
        return SpoolStatus(
            source=source,
            spooled=spooled,
            confirmed=max(0, confirmed),
            pending=spooled - confirmed - refused,  # counting many of them would take long
            refused=refused,
            oldest_pending_seconds=None
            if oldest is None
            else round(max(0.0, time.time() - oldest), 3),
            last_confirmed_at=None if at is None else datetime.fromtimestamp(at, UTC),
        )

    def unconfirmed(self, *, source: str, until: int) -> tuple[bool, bool]:
        """Whether an event up to number `until` of the source is pending, and whether one is
        refused. Raises SpoolError if the spool is another source by now."""
        with self._file.lock, self._file.translated_errors():
            if self._batch is not None:
                raise SpoolError("flush after the group_commit block: its events are not taken yet")
            ((found, is_pending, is_refused),) = self._file.current().execute(
                "SELECT uri, EXISTS (SELECT * FROM event WHERE sequence <= base + ?1),"
                " EXISTS (SELECT * FROM refused WHERE sequence <= base + ?1) FROM source",
                (until,),
            )
        if found != source:
            raise SpoolError(
                f"the spool {self.path} was removed or replaced: what became of the events of"
                f" {source} is not known"
            )
        return bool(is_pending), bool(is_refused)

    @contextmanager
    def _committed(self, timeout_seconds: float) -> Iterator["SpoolBatch"]:
        """A transaction that writes, at its end, what was put into the batch."""
        with self._file.transaction(timeout_seconds, needs_room=True) as connection:
            with self._file.translated_errors():
                batch = SpoolBatch(connection)
            try:  # from here on, because an error from a signal handler must not leave it set
                self._batch = batch
                yield batch
            finally:
                self._batch = None
            with self._file.translated_errors():
                batch.write()


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
