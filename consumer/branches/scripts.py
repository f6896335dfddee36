"""Which scripts have run, and which should have."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, text

from mirrorfeed.consumer.database import age_seconds, database_now, duration_seconds, in_utc
from mirrorfeed.consumer.partitions.own_runs import is_own_run
from mirrorfeed.contract.events import MAX_NAME_LENGTH, check_text, shown

RUNS_KEPT_IN_MIND = 11
RUNS_NEEDED = 4
"""Fewer runs tell nothing of how often a script runs."""
OVERDUE_FACTOR = 1.5
OVERDUE_SECONDS = 300.0

# Hops from one (name, hostname) to the next in the unique index: the cost depends on how many
# scripts there are, not on how often they have run.
SCRIPTS = """
    WITH RECURSIVE script AS (
        (
            SELECT name, hostname FROM script_activity
            WHERE CAST(:name AS text) IS NULL OR name = :name
            ORDER BY name, hostname LIMIT 1
        )
        UNION ALL
        SELECT following.name, following.hostname FROM script, LATERAL (
            SELECT name, hostname FROM script_activity
            WHERE (name, hostname) > (script.name, script.hostname)
                AND (CAST(:name AS text) IS NULL OR name = :name)
            ORDER BY name, hostname LIMIT 1
        ) following
    )
"""

LAST_RUNS = text(f"""{SCRIPTS}
    SELECT last.* FROM script, LATERAL (
        SELECT name, hostname, date_started, date_completed FROM script_activity
        WHERE name = script.name AND hostname = script.hostname
        ORDER BY date_started DESC, date_completed DESC LIMIT 1
    ) last
    ORDER BY name, hostname
""")  # noqa: S608

LAST_STARTS = text(f"""{SCRIPTS}
    SELECT name, hostname, ARRAY(
        SELECT date_started FROM script_activity
        WHERE name = script.name AND hostname = script.hostname
        ORDER BY date_started DESC LIMIT :runs
    ) AS starts
    FROM script ORDER BY name, hostname
""")  # noqa: S608

# Runs may overlap, so the last one to start need not be the last one to complete.
LAST_COMPLETED = text("""
    SELECT (
        SELECT max(date_completed) FROM script_activity
        WHERE name = watched.name AND hostname = watched.hostname
    ) AS last_seen
    FROM unnest(CAST(:hostnames AS text[]), CAST(:names AS text[]))
        WITH ORDINALITY AS watched (hostname, name, position)
    ORDER BY position
""")


class Watched(Struct, frozen=True):
    """A script that should run on a host from time to time. Raises InvalidEvent."""

    hostname: str
    name: str

    def __post_init__(self) -> None:
        check_text("the hostname", self.hostname, at_least=1, at_most=MAX_NAME_LENGTH)
        check_text("the script's name", self.name, at_least=1, at_most=MAX_NAME_LENGTH)

    @classmethod
    def parse(cls, value: str) -> "Watched":
        """Reads HOST:SCRIPT, split at the first colon. Raises ValueError."""
        hostname, colon, name = value.partition(":")
        if not (hostname and colon and name):
            raise ValueError(f"{shown(value)} is not HOST:SCRIPT, such as vostok:branch-puller")
        return cls(hostname, name)

    def __str__(self) -> str:
        return f"{self.hostname}:{self.name}"


class Sighting(Struct, frozen=True):
    """When a run of a script last completed; None if there was none."""

    script: Watched
    last_seen: datetime | None
    age_seconds: float | None
    has_run: bool
    """Whether that was recent enough."""


class Rhythm(Struct, frozen=True):
    """How often a script has been running on a host, and whether it has stopped."""

    name: str
    hostname: str
    usual_seconds: float | None
    """The longest time between two of its last runs; None if these are too few."""
    silent_seconds: float
    """Since its last run began."""

    @property
    def is_overdue(self) -> bool:
        """Whether it has been silent for half as long again as ever between its last runs, and some
        minutes."""
        usual = self.usual_seconds
        return usual is not None and (
            self.silent_seconds > OVERDUE_FACTOR * usual + OVERDUE_SECONDS
        )


def rhythms(connection: Connection, now: datetime) -> list[Rhythm]:
    """Of each script on each host, from its last runs. What operators start by hand has none."""
    found = connection.execute(LAST_STARTS, {"name": None, "runs": RUNS_KEPT_IN_MIND})
    return [
        Rhythm(
            row.name,
            row.hostname,
            None if is_own_run(row.name) else _longest_gap(row.starts),
            age_seconds(now, row.starts[0]),
        )
        for row in found
    ]


def _longest_gap(starts: Sequence[datetime]) -> float | None:
    if len(starts) < RUNS_NEEDED:
        return None
    return max((later - earlier).total_seconds() for later, earlier in pairwise(starts))


def last_runs(
    connection: Connection, name: str | None = None, *, now: datetime | None = None
) -> list[dict[str, Any]]:
    """The latest run, by start, of each script on each host, or of the scripts with one name.

    `age_seconds` is the time since it completed. `now` is the database's time unless given.
    """
    now = database_now(connection) if now is None else in_utc(now)
    return [
        {
            **row._mapping,
            "duration_seconds": duration_seconds(row.date_started, row.date_completed),
            "age_seconds": age_seconds(now, row.date_completed),
        }
        for row in connection.execute(LAST_RUNS, {"name": name})
    ]


def check(
    connection: Connection,
    scripts: Sequence[Watched],
    within: timedelta,
    *,
    now: datetime | None = None,
) -> list[Sighting]:
    """Whether a run of each script completed `within` that time, to the microsecond.

    `now` is the database's time unless given.
    """
    now = database_now(connection) if now is None else in_utc(now)
    rows = connection.execute(
        LAST_COMPLETED,
        {
            "hostnames": [script.hostname for script in scripts],
            "names": [script.name for script in scripts],
        },
    )
    return [
        Sighting(
            script,
            last_seen,
            None if last_seen is None else age_seconds(now, last_seen),
            last_seen is not None and last_seen >= now - within,
        )
        for script, last_seen in zip(scripts, rows.scalars(), strict=True)
    ]
