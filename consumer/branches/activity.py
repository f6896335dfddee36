"""How many attempts there were lately, minute by minute."""

from datetime import datetime, timedelta

from msgspec import Struct
from sqlalchemy import Connection, text

MINUTE = timedelta(minutes=1)

# By branch, as the key of mirror_attempt is: this needs no index of its own.
COUNT = text("""
    SELECT
        CAST(pg_catalog.floor(
            extract(epoch FROM recent.started_at - CAST(:since AS timestamptz)) / 60
        ) AS integer) AS minute,
        count(*) FILTER (WHERE outcome = 'completed') AS completed,
        count(*) FILTER (WHERE outcome = 'failed') AS failed,
        count(*) FILTER (WHERE outcome IS NULL) AS unfinished,
        CAST(pg_catalog.avg(extract(epoch FROM finished_at - recent.started_at))
            FILTER (WHERE outcome = 'completed') AS float) AS mean_seconds
    FROM branch CROSS JOIN LATERAL (
        SELECT started_at, finished_at, outcome FROM mirror_attempt
        WHERE branch_id = branch.id AND started_at >= CAST(:since AS timestamptz)
            AND started_at < CAST(:until AS timestamptz)
    ) recent
    WHERE last_mirror_attempt >= CAST(:since AS timestamptz)
    GROUP BY minute ORDER BY minute
""")


class Minute(Struct, frozen=True):
    """The attempts that started within one minute."""

    completed: int = 0
    failed: int = 0
    unfinished: int = 0
    mean_seconds: float | None = None
    """How long those took that completed."""


def attempts_by_minute(connection: Connection, now: datetime, minutes: int = 60) -> list[Minute]:
    """The last `minutes` minutes, the earliest first; they end now."""
    since = now - minutes * MINUTE
    found = {
        row.minute: Minute(row.completed, row.failed, row.unfinished, row.mean_seconds)
        for row in connection.execute(COUNT, {"since": since, "until": now})
    }
    return [found.get(minute, Minute()) for minute in range(minutes)]
