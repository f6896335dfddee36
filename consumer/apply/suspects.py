"""Messages that may have killed a worker.

A message that was delivered before is a suspect: the worker that had it in hand did not finish. We
count ourselves what kills workers, because a publisher can forge what the broker counts, and the
broker counts every return, even if only the database was down. So before a suspect is decoded or
applied, alone, its trial is noted and committed. If it comes through, the note is deleted. If it
kills its worker in a few trials, it becomes a letter, unread.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Engine, text

from mirrorfeed.consumer.apply.message import Message, Rejection
from mirrorfeed.contract.reasons import Reason

MAX_TRIALS = 3
"""How many workers a message may kill before it is buried unread."""

# For one message or none, so that `Applier.check` can find out whether it can run.
NOTE = text("""
    INSERT INTO suspect AS known (digest) SELECT pg_catalog.unnest(CAST(:digests AS bytea[]))
    ON CONFLICT (digest) DO UPDATE SET trials = known.trials + 1, tried_at = now()
    RETURNING trials
""")
UNCOUNT = text("""
    UPDATE suspect SET trials = trials - 1 WHERE digest = ANY(CAST(:digests AS bytea[]))
""")
FORGET = text("DELETE FROM suspect WHERE digest = ANY(CAST(:digests AS bytea[]))")


class MustWait(Exception):
    """The message comes behind one that waits for a lock, so it waits too."""

    def __init__(self, key: str) -> None:
        """`key` is its partition key."""
        super().__init__(key)
        self.key = key


class Suspects:
    """The trials of one worker. For one thread at a time, except `abandon`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._survived: set[bytes] = set()
        self._on_trial: bytes | None = None

    def begin_trial(self, body: bytes) -> int:
        """Notes that a trial begins; returns how many earlier trials killed a worker."""
        digest = _digest(body)
        with self._engine.begin() as connection:
            if self._survived:
                connection.execute(UNCOUNT, {"digests": list(self._survived)})
            trials: int = connection.execute(NOTE, {"digests": [digest]}).scalar_one()
        self._survived.clear()
        self._on_trial = digest
        return trials - 1

    def survived(self, body: bytes) -> None:
        """The trial failed, but the worker lives, so it does not count. This is noted with the next
        trial, or by `abandon`, because the database may be in trouble now."""
        self._survived.add(_digest(body))
        self._on_trial = None

    def forget(self, connection: Connection, body: bytes) -> None:
        """The message came through: call this in the transaction that applies or buries it."""
        connection.execute(FORGET, {"digests": [_digest(body)]})
        self._on_trial = None

    def abandon(self, *, is_waiting: bool) -> None:
        """The worker ends: what it survived does not count, nor does a trial that has not ended
        because it is waiting for the database. From any thread. Raises DBAPIError."""
        digests = set(self._survived)
        if is_waiting and self._on_trial is not None:
            digests.add(self._on_trial)
        if digests:
            with self._engine.begin() as connection:
                connection.execute(UNCOUNT, {"digests": list(digests)})
            self._survived.clear()


def unread(body: bytes, headers: Mapping[str, Any], trials: int) -> Message:
    """A message that is no longer even decoded: that may be what kills workers."""
    detail = (
        f"it has killed {trials} workers that had nothing else in hand: find out why in their"
        " logs, then replay"
    )
    return Message(body, headers, Rejection(Reason.DELIVERY_LIMIT, detail), trials + 1)


def _digest(body: bytes) -> bytes:
    return sha256(body).digest()
