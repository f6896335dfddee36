"""Which workers are running, and which of them consumes what.

Every worker keeps a row in the table `worker`, which names the PostgreSQL process that serves it.
Once a second it writes there what it is subscribed to, and reads what the others wrote. If the
process of another worker is gone, so is that worker. From all this each one computes for itself who
owns which queue; nobody is in charge. If two workers disagree for a moment, the single active
consumer of each queue keeps the order.
"""

import os
import socket
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

from msgspec import Struct
from sqlalchemy import Connection, Engine, Row, text

T = TypeVar("T")

BEAT_SECONDS = 1.0
SILENT_SECONDS = 10
"""A worker that has been silent for this long is frozen, or its host is gone."""
LOCK_CLASS = 0x6D697277  # "mirw" in ASCII
"""A worker of 0.1.0 holds an advisory lock with its number, and takes any worker without one for
dead. Anybody may take such a lock, so nothing else may depend on it."""

JOIN = text("""
    WITH joined AS (
        INSERT INTO worker (hostname, pid, share_index, share_count, version, backend_pid)
        VALUES (:hostname, :pid, :share_index, :share_count, :version, pg_backend_pid())
        RETURNING number
    )
    SELECT number, pg_try_advisory_lock(:lock_class, number) FROM joined
""")

SAID = """number, hostname, pid, share_index, share_count, queues, version, report,
        CAST(extract(epoch FROM now() - seen_at) AS float) AS silent_seconds"""

# PostgreSQL soon ends the process that serves a worker when that has ended.
IS_DEAD = """(
        seen_at < now() - pg_catalog.make_interval(secs => :silent_seconds)
        OR CASE
            WHEN backend_pid IS NULL THEN pg_try_advisory_xact_lock_shared(:lock_class, number)
            ELSE backend_pid NOT IN (SELECT pid FROM pg_stat_activity WHERE pid IS NOT NULL)
        END
    )"""

# Most of the time this is all that a beat does: one round trip. What the worker itself has just
# said cannot be read from the table yet.
SPEAK = text(f"""
    WITH spoken AS (
        UPDATE worker SET seen_at = now(), queues = :queues, report = CAST(:report AS jsonb)
        WHERE number = :number
        RETURNING *
    )
    SELECT {SAID}, false AS is_dead FROM spoken
    UNION ALL
    SELECT {SAID}, {IS_DEAD} AS is_dead FROM worker WHERE number <> :number
    ORDER BY number
""")

FORGET_DEAD = text(f"DELETE FROM worker WHERE number <> :number AND {IS_DEAD}")

# What runs on the primary server is not to be seen on a standby.
MEMBERS = text(f"""
    SELECT {SAID}
    FROM worker
    WHERE seen_at >= now() - pg_catalog.make_interval(secs => :silent_seconds) AND (
        backend_pid IS NULL OR pg_is_in_recovery()
        OR backend_pid IN (SELECT pid FROM pg_stat_activity)
    )
    ORDER BY number
""")

LEAVE = text("DELETE FROM worker WHERE number = :number")


class Share(Struct, frozen=True):
    """What a worker takes first: every `count`-th queue, starting with the `index`-th."""

    index: int
    count: int


class Member(Struct, frozen=True):
    """A running worker, and the queues it is subscribed to."""

    number: int
    hostname: str
    pid: int
    share: Share | None
    queues: frozenset[str]
    version: str | None = None
    """None for a worker of 0.1.0, which did not say."""
    report: Any = None
    """What it last said of itself: `mirrorfeed.consumer.health.Report`; None as above."""
    silent_seconds: float = 0.0
    """Since then."""

    @property
    def is_connected(self) -> bool:
        """Whether it has a connection to the broker, as every worker of 0.1.0 with a row does."""
        return self.report is None or bool(self.report.get("is_connected", True))


class Assignment(Struct, frozen=True):
    """What one worker is to consume, and what it may release."""

    own: frozenset[str]
    """The queues to consume."""
    served: frozenset[str]
    """Queues whose new owner is already subscribed, so safe to release."""


def owners(queues: Sequence[str], members: Sequence[Member]) -> dict[str, Member]:
    """The owner of each queue: the first worker that has it in its share. The rest are dealt out in
    turn to the workers without a share, or to all workers if each has one. A worker that cannot
    reach the broker gets none."""
    members = [member for member in members if member.is_connected]
    dealt: dict[str, Member] = {}
    for index, queue in enumerate(queues):
        for member in members:
            if member.share and index % member.share.count == member.share.index - 1:
                dealt.setdefault(queue, member)
    takers = [member for member in members if member.share is None] or members
    left = [queue for queue in queues if queue not in dealt]
    if takers:
        for index, queue in enumerate(left):
            dealt[queue] = takers[index % len(takers)]
    return dealt


def assignment_of(number: int, queues: Sequence[str], members: Sequence[Member]) -> Assignment:
    """The assignment of the worker with this number."""
    dealt = owners(queues, members).items()
    return Assignment(
        own=frozenset(queue for queue, owner in dealt if owner.number == number),
        served=frozenset(
            queue for queue, owner in dealt if owner.number != number and queue in owner.queues
        ),
    )


class Membership:
    """This worker's row in the table of workers. For one thread at a time."""

    def __init__(self, engine: Engine, share: Share | None) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._share = share
        self._connection: Connection | None = None
        self._number = 0

    def ask(self, question: Callable[[Connection], T]) -> T | None:
        """Asks the database something else, through the same connection: for what happens once a
        second, that costs less than one from the pool. None if there is no connection right now.

        Raises DBAPIError if the database cannot be reached.
        """
        if self._connection is None:
            return None
        try:
            return question(self._connection)
        except BaseException:
            self._disconnect()
            raise

    def take_part(
        self, subscribed: Collection[str], queues: Sequence[str], report: str = "null"
    ) -> Assignment:
        """Writes what this worker is subscribed to, and what it says of itself, as JSON; returns
        its assignment.

        Raises DBAPIError if the database cannot be reached.
        """
        try:
            connection = self._connection or self._join()
            ours = {
                "number": self._number,
                "silent_seconds": SILENT_SECONDS,
                "lock_class": LOCK_CLASS,
            }
            said = {"queues": sorted(subscribed), "report": report}
            rows = connection.execute(SPEAK, {**ours, **said}).all()
            members = [_member(row) for row in rows if not row.is_dead]
            if all(member.number != self._number for member in members):
                # This worker was frozen for so long that the others took it for dead.
                self._disconnect()
                return self.take_part(subscribed, queues, report)
            if len(members) < len(rows):
                connection.execute(FORGET_DEAD, ours)
            return assignment_of(self._number, queues, members)
        except BaseException:
            self._disconnect()
            raise

    def leave(self) -> None:
        """Deletes the row, so that the others know at once. Raises DBAPIError."""
        if self._connection is not None:
            try:
                self._connection.execute(LEAVE, {"number": self._number})
            finally:
                self._disconnect()

    def _join(self) -> Connection:
        self._connection = self._engine.connect()
        row = self._connection.execute(
            JOIN,
            {
                "hostname": socket.gethostname(),
                "pid": os.getpid(),
                "share_index": self._share and self._share.index,
                "share_count": self._share and self._share.count,
                "version": version("mirrorfeed"),
                "lock_class": LOCK_CLASS,
            },
        ).one()
        self._number = row.number
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


def living(connection: Connection) -> list[Member]:
    """The workers that have not been found dead, the oldest first."""
    return list(map(_member, connection.execute(MEMBERS, {"silent_seconds": SILENT_SECONDS})))


def _member(row: Row[Any]) -> Member:
    return Member(
        row.number,
        row.hostname,
        row.pid,
        Share(row.share_index, row.share_count) if row.share_index else None,
        frozenset(row.queues),
        row.version,
        row.report,
        row.silent_seconds,
    )
