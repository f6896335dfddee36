"""Messages that may have killed a worker.

A message that was delivered before is a suspect: the worker that had it in hand did not finish. We
count ourselves what kills workers, because a publisher can forge what the broker counts, and the
broker counts every return, even if only the database was down. So before suspects are decoded or
applied, their trial is noted and committed. If they come through, the notes are deleted. Most have
done nothing, so they are tried together; those that were in a trial that killed its worker are
tried alone. If a message kills its worker in a few trials, it becomes a letter, unread.
"""

from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Engine, text

from mirrorfeed.consumer.apply.message import Message, Rejection
from mirrorfeed.contract.reasons import Reason

MAX_TRIALS = 3
"""How many workers a message may kill before it is buried unread."""

# In the order of the digests, so that no two workers deadlock.
NOTE = text("""
    INSERT INTO suspect AS known (digest)
    SELECT DISTINCT digest FROM pg_catalog.unnest(CAST(:digests AS bytea[])) AS digest
    ORDER BY digest
    ON CONFLICT (digest) DO UPDATE SET trials = known.trials + 1, tried_at = now()
    RETURNING trials
""")
TRIED = text("""
    SELECT digest FROM suspect WHERE digest = ANY(CAST(:digests AS bytea[])) AND trials > 0
""")
UNCOUNT = text("""
    UPDATE suspect SET trials = trials - 1 WHERE digest = ANY(CAST(:digests AS bytea[]))
""")
FORGET = text("DELETE FROM suspect WHERE digest = ANY(CAST(:digests AS bytea[]))")


class MustWait(Exception):
    """Some of the messages come behind one that waits for a lock, so they wait too."""


class MustBeAlone(Exception):
    """Some of the messages were in a trial that killed its worker."""

    def __init__(self, those: Sequence[bool]) -> None:
        """For each of the messages whether it was."""
        super().__init__(f"{sum(those)} of {len(those)} messages must be tried alone")
        self.those = those


class Suspects:
    """The trials of one worker. For one thread at a time, except `abandon`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._survived: set[bytes] = set()
        self._on_trial: set[bytes] = set()

    def begin_trial(self, bodies: Sequence[bytes]) -> int:
        """Notes that a trial of all of them begins; returns how many earlier trials killed a
        worker. Raises MustBeAlone, having noted nothing, if there are such trials of one of
        several."""
        digests = list(map(_digest, bodies))
        with self._engine.begin() as connection:
            if self._survived:
                connection.execute(UNCOUNT, {"digests": list(self._survived)})
            if len(digests) > 1:
                known = set(map(bytes, connection.scalars(TRIED, {"digests": digests})))
                if known:
                    raise MustBeAlone([digest in known for digest in digests])
            trials = connection.execute(NOTE, {"digests": digests}).scalars().first() or 1
        self._survived.clear()
        self._on_trial = set(digests)
        return trials - 1

    def survived(self, bodies: Collection[bytes]) -> None:
        """The trial failed, but the worker lives, so it does not count. This is noted with the next
        trial, or by `abandon`, because the database may be in trouble now."""
        self._survived.update(map(_digest, bodies))
        self._on_trial = set()

    def forget(self, connection: Connection, bodies: Collection[bytes]) -> None:
        """The messages came through: call this in the transaction that applies or buries them."""
        connection.execute(FORGET, {"digests": list(map(_digest, bodies))})
        self._on_trial = set()

    def abandon(self, *, is_waiting: bool) -> None:
        """The worker ends: what it survived does not count, nor does a trial that has not ended
        because it is waiting for the database. From any thread. Raises DBAPIError."""
        digests = self._survived | (self._on_trial if is_waiting else set())
        if digests:
            with self._engine.begin() as connection:
                connection.execute(UNCOUNT, {"digests": list(digests)})
            self._survived.clear()


def unread(body: bytes, headers: Mapping[str, Any], trials: int) -> Message:
    """A message that is no longer even decoded: that may be what kills workers."""
    detail = (
        f"{trials} workers ended while they tried it, the last ones with nothing else in hand: find"
        " out why in their logs, then replay"
    )
    return Message(body, headers, Rejection(Reason.DELIVERY_LIMIT, detail), trials + 1)


def _digest(body: bytes) -> bytes:
    return sha256(body).digest()
