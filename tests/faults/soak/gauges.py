"""What everything uses, looked at every few seconds."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from pika.exceptions import AMQPError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.amqp.connections import BrokerUnavailable
from mirrorfeed.contract import routing
from mirrorfeed.publisher import SpoolError
from tests.faults.campaign.background import Background
from tests.faults.campaign.stand import Stand, port_of
from tests.spools import status_of

ESTABLISHED = "01"
"""As /proc/net/tcp has it."""
KEPT_TABLES = frozenset({"script_activity", "ledger_event"})
"""They grow by design: the first keeps every run, the second the ids of the latest 65,000 events of
each source. So it counts how large a row is."""
SIZES = text("""
    SELECT relname, pg_table_size(oid), pg_indexes_size(oid) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
""")
CONNECTIONS = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
LETTERS = text("SELECT count(*) FROM dead_letter WHERE state = 'dead'")
# A spool of the campaign also keeps what it took, which no other spool does.
USED_BYTES = "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name <> 'taken'"

Reading = tuple[str, str, float]
"""What is measured (a key of GAUGES), of what, and how much."""


class Gauges(Background):
    """Measures again and again. What goes wrong ends the soak."""

    def __init__(self, stand: Stand, every_seconds: float) -> None:
        super().__init__("gauges", stand.ended.set)
        self._stand = stand
        self._every_seconds = every_seconds
        self.began_at = time.monotonic()
        self.seconds: list[float] = []
        """When each look was, since the beginning."""
        self.series: dict[tuple[str, str], list[float | None]] = {}
        """A value for each look; None if there was nothing to measure."""

    def _work(self) -> None:
        while not self._stopping.wait(self._every_seconds):
            self._look()

    def _look(self) -> None:
        looks = len(self.seconds)
        self.seconds.append(time.monotonic() - self.began_at)
        for gauge, name, value in self._read():
            self.series.setdefault((gauge, name), [None] * looks).append(value)
        for values in self.series.values():
            values += [None] * (looks + 1 - len(values))

    def _read(self) -> Iterator[Reading]:
        yield "reported", "events", self._stand.reported
        yield from self._of_processes()
        yield from self._of_spools()
        yield from self._of_the_broker()
        with suppress(DBAPIError):  # it is being killed
            yield from self._of_the_database()

    def _of_processes(self) -> Iterator[Reading]:
        for service in self._stand.services:
            for gauge, value in (
                ("memory", service.resident_megabytes),
                ("files", service.open_files),
                ("threads", service.threads),
            ):
                if value is not None:
                    yield gauge, service.name, value

    def _of_spools(self) -> Iterator[Reading]:
        for spool in self._stand.all_spools:
            with suppress(sqlite3.Error, SpoolError):  # its disk is full
                yield "pending", spool.stem, status_of(spool).pending
                with closing(sqlite3.connect(spool)) as connection:
                    (used_bytes,) = connection.execute(USED_BYTES).fetchone()
                yield "spools", spool.stem, used_bytes / 1e6
            log = spool.with_name(f"{spool.name}-wal")
            if log.exists():
                yield "spool logs", spool.stem, log.stat().st_size / 1e6

    def _of_the_broker(self) -> Iterator[Reading]:
        ports = {port_of(node.url) for node in self._stand.nodes}
        yield "broker connections", "all nodes", connections_to(ports)
        queues = [routing.DEAD_QUEUE, *map(routing.partition_queue, range(self._stand.partitions))]
        with (
            suppress(BrokerUnavailable, AMQPError),  # it is being killed, or a queue is away
            self._stand.admin_channel() as channel,
        ):
            waiting = [channel.queue_declare(each, passive=True).method for each in queues]
            yield "backlog", "messages", sum(each.message_count for each in waiting)

    def _of_the_database(self) -> Iterator[Reading]:
        engine = self._stand.engine
        try:
            with engine.connect() as connection:
                sizes = connection.execute(SIZES).all()
                rows = {
                    name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
                    for name in KEPT_TABLES
                }
                letters = connection.execute(LETTERS).scalar_one()
                connections = connection.execute(CONNECTIONS).scalar_one()
        except DBAPIError:
            engine.dispose()
            raise
        yield "dead letters", "letters", letters
        yield "database connections", "all", connections
        for name, table_bytes, index_bytes in sizes:
            if name not in KEPT_TABLES:
                yield "tables", name, table_bytes / 1e6
                yield "indexes", name, index_bytes / 1e6
            elif rows[name]:
                yield "a row", name, (table_bytes + index_bytes) / rows[name]


def connections_to(ports: set[int]) -> int:
    """How many are established to these ports of this machine."""
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        found += state == ESTABLISHED and int(local.partition(":")[2], 16) in ports
    return found
