"""Who holds the lock that something waits for."""

import threading
from collections.abc import Callable
from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.contract.events import shown
from mirrorfeed.contract.wire import timestamp

LOOK_SECONDS = 0.05

# A user without pg_read_all_stats sees neither the query nor the time of other users' sessions.
BLOCKERS = text("""
    SELECT pid, usename, xact_start, query FROM pg_stat_activity
    WHERE pid = ANY(pg_blocking_pids(:waiting)) ORDER BY xact_start, pid
""")


class Blocker(Struct, frozen=True):
    """A session of the database that holds a lock."""

    pid: int
    user: str | None
    since: datetime | None
    """When its transaction began; None without the right to see it."""
    query: str | None
    """Its latest statement."""

    def __str__(self) -> str:
        """As a log or an operator is told."""
        since = "" if self.since is None else f", in a transaction since {timestamp(self.since)}"
        query = "" if self.query is None else f": {shown(self.query)}"
        return f"pid {self.pid} ({self.user}{since}){query}"


def find_blockers(engine: Engine, wait: Callable[[Connection], object]) -> list[Blocker]:
    """Runs `wait`, which may change nothing for good, and returns whom it has to wait for; nobody
    if it had to wait for nobody, or for less than `LOOK_SECONDS`.

    Raises DBAPIError if the database cannot be asked.
    """
    with engine.connect() as waiting, engine.connect() as looking:
        pid = waiting.execute(text("SELECT pg_backend_pid()")).scalar_one()
        thread = threading.Thread(target=_wait, args=(waiting, wait), daemon=True)
        thread.start()
        found: list[Blocker] = []
        while not found and thread.is_alive():
            thread.join(LOOK_SECONDS)
            rows = looking.execute(BLOCKERS, {"waiting": pid})
            found = [Blocker(*row) for row in rows]
        thread.join()
        return found


def _wait(connection: Connection, wait: Callable[[Connection], object]) -> None:
    try:
        wait(connection)
    except DBAPIError:
        return  # it waited too long, which is what we wanted to see
    finally:
        connection.rollback()
