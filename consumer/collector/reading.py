"""One look at the database and the broker: every number that is worth watching."""

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from time import monotonic
from typing import TypeVar

from msgspec import Struct
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.amqp.connections import (
    Addresses,
    BrokerUnavailable,
    ask_for_queues,
)
from mirrorfeed.consumer.branches.scripts import Sighting, Watched, check
from mirrorfeed.consumer.branches.status import BranchState, count_stale, count_states
from mirrorfeed.consumer.checkup import ask_database, counted
from mirrorfeed.consumer.database import check_database, database_now, first_line
from mirrorfeed.consumer.errors import ConsumerError
from mirrorfeed.consumer.health import QueueCounts, WorkerState
from mirrorfeed.consumer.sources.audit import audit
from mirrorfeed.consumer.sources.silence import SILENT_AFTER, heard_hosts, silent_hosts
from mirrorfeed.contract.outage import Outage

STALE_AFTER = {
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
}
QUERY_TIMEOUT = "SET LOCAL statement_timeout = '60s'"
LETTERS = text("""
    SELECT reason, count(*) AS letters, min(first_seen_at) AS oldest_at
    FROM dead_letter WHERE state = 'dead' GROUP BY reason
""")

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Watching(Struct, frozen=True):
    """What is looked at, and from when on it counts."""

    grace: timedelta = timedelta(minutes=1)
    """Numbers that have been missing for less than this do not count."""
    silent_after: timedelta = SILENT_AFTER
    """A host that was not heard for longer is silent."""
    scripts: tuple[Watched, ...] = ()


class Letters(Struct, frozen=True):
    """The dead letters with one reason."""

    count: int
    oldest_at: datetime


class InDatabase(Struct, frozen=True):
    """What the database knew."""

    branches: dict[BranchState, int]
    stale: dict[str, int]
    """How many branches had no success for so long."""
    letters: dict[str, Letters]
    """By reason; none for a reason without letters."""
    letters_not_kept: int
    """Messages that only left a trace."""
    missing_events: int
    missing_oldest_seconds: float
    """0 if none is missing."""
    heard_hosts: int
    """Or sources that are no spools."""
    silent_hosts: int
    queues: list[str]
    """Those that the workers are to consume."""
    workers: list[WorkerState]
    scripts: list[Sighting]


class Reading(Struct, frozen=True):
    """What was found. Of a server that was away nothing is known."""

    database: InDatabase | None
    queues: dict[str, QueueCounts] | None
    """As the broker counted them; by name."""
    stalled_seconds: dict[str, float]
    """For how long messages have waited in a queue and none was settled; 0 if that is not so."""
    duration_seconds: float

    @property
    def is_complete(self) -> bool:
        return self.database is not None and self.queues is not None


class Reader:
    """Looks again and again. For one thread: so there is one query at a time, and one plan."""

    def __init__(self, engine: Engine, addresses: Addresses, watching: Watching) -> None:
        self._engine = engine
        self._addresses = addresses
        self._watching = watching
        self._database_outage = Outage(logger, "the database")
        self._broker_outage = Outage(logger, "the broker")
        self._unconsumed_since: dict[str, float] = {}

    def read(self) -> Reading:
        """Raises nothing if a server is away."""
        began_at = monotonic()
        database = _known(self._read_database, self._database_outage)
        queues = None
        if database is not None:
            queues = _known(lambda: self._read_broker(database.queues), self._broker_outage)
        return Reading(
            database,
            queues,
            self._stalled(database, queues) if database and queues is not None else {},
            monotonic() - began_at,
        )

    def _read_database(self) -> InDatabase:
        check_database(self._engine, to_write=False)
        watching = self._watching
        with self._engine.begin() as connection:
            connection.exec_driver_sql(QUERY_TIMEOUT)
            now = database_now(connection)
            found = audit(connection, grace_seconds=watching.grace.total_seconds())
            hosts = len(heard_hosts(found.all_accounts, now))
            silent = len(silent_hosts(found.all_accounts, now, watching.silent_after))
            layout, workers = ask_database(connection)
            return InDatabase(
                branches=count_states(connection),
                stale=dict(
                    zip(STALE_AFTER, count_stale(connection, STALE_AFTER.values()), strict=True)
                ),
                letters=_letters(connection),
                letters_not_kept=found.overflow,
                missing_events=found.missing_events,
                missing_oldest_seconds=max(
                    (gap.missing_seconds for each in found.accounts for gap in each.missing),
                    default=0.0,
                ),
                heard_hosts=hosts - silent,
                silent_hosts=silent,
                queues=layout.queues,
                workers=workers,
                scripts=check(connection, watching.scripts, timedelta())
                if watching.scripts
                else [],
            )

    def _read_broker(self, queues: Iterable[str]) -> dict[str, QueueCounts]:
        return counted(ask_for_queues([next(self._addresses)], queues))

    def _stalled(self, database: InDatabase, queues: dict[str, QueueCounts]) -> dict[str, float]:
        now = monotonic()
        stalled: dict[str, float] = {}
        for queue, counts in queues.items():
            unmoved = [
                worker.report.unmoved_seconds.get(queue, 0.0)
                for worker in database.workers
                if queue in worker.subscribed
            ]
            if unmoved or not counts.ready:
                self._unconsumed_since.pop(queue, None)
                # Where one consumer is active and the others stand by, only the active one moves.
                stalled[queue] = min(unmoved, default=0.0)
            else:
                stalled[queue] = now - self._unconsumed_since.setdefault(queue, now)
        return stalled


def _letters(connection: Connection) -> dict[str, Letters]:
    rows = connection.execute(LETTERS)
    return {row.reason: Letters(row.letters, row.oldest_at) for row in rows}


def _known(read: Callable[[], T], outage: Outage) -> T | None:
    """None if that server is away, or not set up."""
    try:
        found = read()
    except (DBAPIError, ConsumerError, BrokerUnavailable) as error:
        outage.goes_on(first_line(error) if isinstance(error, DBAPIError) else str(error))
        return None
    outage.is_over()
    return found
