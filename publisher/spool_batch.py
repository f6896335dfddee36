"""What one commit of a spool writes."""

import sqlite3
import time
from datetime import datetime
from typing import NamedTuple, Self
from uuid import uuid4

from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope, Event
from mirrorfeed.contract.tracing import current_trace
from mirrorfeed.publisher.errors import SpoolError

Row = tuple[int, str, str, str, bytes, float]

INTERRUPTED = (
    "the spool is in the middle of a call that a signal interrupted: do not report from a signal"
    " handler"
)


class LatestAttempt(NamedTuple):
    """The latest mirror attempt of a branch, as far as this spool knows."""

    started_at: datetime
    is_open: bool


class SpoolBatch:
    """What a transaction will write: all rows of each table at once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.source: str
        self.last_sequence: int
        self.base: int
        self.source, self.last_sequence, self.base = connection.execute(
            "SELECT uri, last_sequence, base FROM source"
        ).fetchone()
        self.attempts: dict[int, LatestAttempt] = {}
        self.has_writer = False
        self._rows: list[Row] = []

    def take(self, writer: "SpoolWriter") -> None:
        self._rows += writer.rows
        self.attempts |= writer.attempts
        self.last_sequence += len(writer.rows)

    def write(self) -> None:
        self.connection.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", self._rows)
        self.connection.executemany(
            "INSERT OR REPLACE INTO attempt VALUES (?, ?, ?)",
            (
                (branch_id, attempt.started_at.isoformat(), attempt.is_open)
                for branch_id, attempt in self.attempts.items()
            ),
        )
        self.connection.execute("UPDATE source SET last_sequence = ?", (self.last_sequence,))


class SpoolWriter:
    """What can be done in `Spool.writing`: all of it is written, or nothing if the block raises."""

    def __init__(self, batch: SpoolBatch) -> None:
        self._batch = batch
        self.rows: list[Row] = []
        self.attempts: dict[int, LatestAttempt] = {}

    def __enter__(self) -> Self:
        if self._batch.has_writer:
            raise SpoolError(INTERRUPTED)
        self._batch.has_writer = True
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            self._batch.take(self)
        self._batch.has_writer = False

    def append(self, event: Event, *, occurred_at: datetime) -> Envelope:
        """Numbers the event, as part of the caller's trace, and puts it after all others. Raises
        InvalidEvent."""
        sequence = self._batch.last_sequence + len(self.rows) + 1
        envelope = Envelope(str(uuid4()), self._batch.source, occurred_at, event, sequence)
        body = wire.encode(envelope, current_trace())
        place, key = self._batch.base + sequence, envelope.partition_key
        self.rows.append((place, envelope.id, event.TYPE, key, body, time.time()))
        return envelope

    def latest_attempt(self, branch_id: int) -> LatestAttempt | None:
        for attempts in (self.attempts, self._batch.attempts):
            if branch_id in attempts:
                return attempts[branch_id]
        row = self._batch.connection.execute(
            "SELECT started_at, is_open FROM attempt WHERE branch_id = ?", (branch_id,)
        ).fetchone()
        return LatestAttempt(datetime.fromisoformat(row[0]), bool(row[1])) if row else None

    def record_attempt(self, branch_id: int, attempt: LatestAttempt) -> None:
        self.attempts[branch_id] = attempt
