"""Each source's account: what has arrived, and what is missing."""

from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Row, text

from mirrorfeed.consumer.apply.allowance import SOURCE_CHARACTERS
from mirrorfeed.consumer.apply.ledger import islands
from mirrorfeed.consumer.sources.overflow import count_overflow

LISTED_RANGES = 1000
"""How many missing ranges an audit lists; it counts them all."""

# The audit reads the ledger whole, for which nested loops would take forever.
READ_WHOLE = text("SET LOCAL enable_hashjoin = on")

# A number counts as missing since the first arrival of anything above it; what operators accepted
# does not. If not all ranges can be listed, every source's first ones are.
AUDIT = text(f"""
    WITH piece AS (
        SELECT uri AS source, first, last, recorded_at
        FROM ledger_range JOIN source ON id = source_id
        UNION ALL
        SELECT source, sequence, sequence, recorded_at
        FROM ledger_arrival, pg_catalog.unnest(sequences) AS sequence
    ),
    {islands("piece", "arrived")},
    account AS (
        SELECT
            source, max(last) AS highest, sum(last - first + 1) AS received,
            min(recorded_at) AS first_at
        FROM arrived GROUP BY source
    ),
    known AS (
        SELECT source, first, last, recorded_at FROM arrived
        UNION ALL
        SELECT uri, first, last, NULL
        FROM ledger_decision decision JOIN source ON source.id = source_id
        WHERE kind = 'accept'
            AND NOT EXISTS (SELECT FROM ledger_decision WHERE undoes = decision.id)
    ),
    {islands("known", "settled")},
    gap AS (
        SELECT
            source,
            pg_catalog.lag(last, 1, CAST(0 AS bigint))
                OVER (PARTITION BY source ORDER BY first) + 1 AS first,
            first - 1 AS last,
            extract(epoch FROM now() - min(recorded_at) OVER (
                PARTITION BY source ORDER BY first DESC
            )) AS age_seconds
        FROM settled
    ),
    unsettled AS (
        SELECT gap.*, age_seconds >= CAST(:grace_seconds AS numeric) AS is_missing
        FROM gap JOIN account USING (source)
        WHERE gap.first <= gap.last AND gap.last < highest
    ),
    missing AS (
        SELECT
            source, count(*) FILTER (WHERE is_missing) AS ranges,
            sum(last - first + 1) FILTER (WHERE is_missing) AS events,
            sum(last - first + 1) AS unsettled_events
        FROM unsettled GROUP BY source
    ),
    listed AS (
        SELECT
            source,
            pg_catalog.array_agg(first ORDER BY first) AS firsts,
            pg_catalog.array_agg(last ORDER BY first) AS lasts,
            pg_catalog.array_agg(CAST(age_seconds AS float) ORDER BY first) AS ages_seconds
        FROM (
            SELECT *, row_number() OVER (PARTITION BY source ORDER BY first) AS place
            FROM unsettled WHERE is_missing ORDER BY place, source LIMIT :limit
        ) first_of_each
        GROUP BY source
    ),
    noted AS (
        SELECT source, max(recorded_at) AS last_at FROM ledger_arrival GROUP BY source
    )
    SELECT
        source,
        -- What is not folded yet may be of a source that has no row.
        coalesce(hostname, substring(source FROM '^/pullers/([^/]+)/')) AS hostname,
        coalesce(first_heard_at, first_at) AS first_heard_at,
        greatest(last_heard_at, last_at) AS last_heard_at,
        highest, received, firsts, lasts, ages_seconds,
        coalesce(ranges, 0) AS ranges,
        coalesce(events, 0) AS events,
        CAST(highest AS numeric) - received - coalesce(unsettled_events, 0) AS accepted
    FROM account
    LEFT JOIN missing USING (source)
    LEFT JOIN listed USING (source)
    LEFT JOIN noted USING (source)
    LEFT JOIN source known ON known.uri = source
    ORDER BY source
""")

# What operators accepted does not count.
FIND_REUSED = text("""
    WITH number AS (
        SELECT
            source_id, number,
            row_number() OVER (PARTITION BY source_id ORDER BY number) AS place
        FROM ledger_event CROSS JOIN pg_catalog.unnest(reused) AS number
        WHERE pg_catalog.cardinality(reused) > 0 AND NOT EXISTS (
            SELECT FROM ledger_decision decision
            WHERE decision.source_id = ledger_event.source_id AND kind = 'accept'
                AND number BETWEEN first AND last
                AND NOT EXISTS (SELECT FROM ledger_decision WHERE undoes = decision.id)
        )
    ),
    range AS (
        SELECT source_id, min(number) AS first, max(number) AS last
        FROM number GROUP BY source_id, number - place
    )
    SELECT
        uri AS source, sum(last - first + 1) AS events,
        pg_catalog.array_agg(first ORDER BY first) AS firsts,
        pg_catalog.array_agg(last ORDER BY first) AS lasts
    FROM range JOIN source ON id = source_id GROUP BY uri
""")

# A source whose numbers were all forgotten is as if it had never been heard, until it is again.
UNNUMBERED = text("""
    SELECT uri, hostname, first_heard_at, last_heard_at FROM source
    WHERE (CAST(:uri AS text) IS NULL OR uri = :uri)
        AND NOT EXISTS (SELECT FROM ledger_range WHERE source_id = id)
        AND NOT EXISTS (
            SELECT FROM ledger_arrival
            WHERE source = uri AND pg_catalog.cardinality(sequences) > 0
        )
        AND NOT EXISTS (
            SELECT FROM ledger_decision decision
            WHERE source_id = source.id AND kind = 'forget' AND first = 1
                AND decided_at >= last_heard_at
                AND NOT EXISTS (SELECT FROM ledger_decision WHERE undoes = decision.id)
        )
    ORDER BY uri
""")

COUNT_DEAD = text("""
    SELECT source, count(*) FROM dead_letter
    WHERE state = 'dead' AND source IS NOT NULL GROUP BY source
""")


class MissingRange(Struct, frozen=True):
    """Numbers that have not arrived, both ends included, although higher ones have.

    `missing_seconds` is how long ago the first of the higher ones arrived.
    """

    first: int
    last: int
    missing_seconds: float


class SourceAccount(Struct, frozen=True):
    """What is known about one source's events."""

    source: str
    hostname: str | None
    """None if the source is not a spool."""
    first_heard_at: datetime
    last_heard_at: datetime
    highest: int
    received: int
    """How many different numbers arrived, applied or buried."""
    missing: list[MissingRange]
    """The first of the missing ranges."""
    missing_ranges: int
    """How many there are."""
    missing_events: int
    """How many numbers there are in all of them."""
    accepted: int
    """How many numbers have not arrived, but operators accepted that."""
    reused: list[tuple[int, int]]
    """Numbers that came again with another event, both ends included; the first of them."""
    reused_events: int
    """How many there are, unless operators accepted that. Two spools speak as this source."""
    dead: int
    """How many of its letters wait for an operator."""
    overflow: int
    """How many of its messages were neither applied nor kept."""


class Audit(Struct, frozen=True):
    """Every source's account, by name."""

    accounts: list[SourceAccount]
    """Of those that number their events."""
    unnumbered: list[SourceAccount]
    """Of those that do not: nothing of theirs can be missing."""
    overflow: int
    """How many messages of all sources, unreadable ones included, were neither applied nor kept."""

    @property
    def all_accounts(self) -> list[SourceAccount]:
        return [*self.accounts, *self.unnumbered]

    @property
    def missing_events(self) -> int:
        return sum(account.missing_events for account in self.accounts)

    @property
    def reused_events(self) -> int:
        return sum(account.reused_events for account in self.accounts)


def audit(
    connection: Connection, *, grace_seconds: float = 0.0, limit: int = LISTED_RANGES
) -> Audit:
    """The account of every source. Lists `limit` missing ranges in all.

    A number missing for less than `grace_seconds` may still be on its way, and does not count.
    If a source's latest events never arrived, only its publisher's status can show that.
    """
    # Before all else, so that each message looks for its letter through the index.
    overflow = count_overflow(connection)
    connection.execute(READ_WHOLE)
    dead = {source: int(count) for source, count in connection.execute(COUNT_DEAD)}
    reused = {row.source: row for row in connection.execute(FIND_REUSED)}
    accounts = [
        SourceAccount(
            source=row.source,
            hostname=row.hostname,
            first_heard_at=row.first_heard_at,
            last_heard_at=row.last_heard_at,
            highest=row.highest,
            received=int(row.received),
            missing=[
                MissingRange(*each)
                for each in zip(
                    row.firsts or (), row.lasts or (), row.ages_seconds or (), strict=True
                )
            ],
            missing_ranges=row.ranges,
            missing_events=int(row.events),
            accepted=int(row.accepted),
            reused=_ranges(reused.get(row.source), limit),
            reused_events=int(reused[row.source].events) if row.source in reused else 0,
            dead=dead.get(row.source, 0),
            overflow=overflow.get(row.source[:SOURCE_CHARACTERS], 0),
        )
        for row in connection.execute(AUDIT, {"grace_seconds": grace_seconds, "limit": limit})
    ]
    unnumbered = [
        SourceAccount(
            source=row.uri,
            hostname=row.hostname,
            first_heard_at=row.first_heard_at,
            last_heard_at=row.last_heard_at,
            highest=0,
            received=0,
            missing=[],
            missing_ranges=0,
            missing_events=0,
            accepted=0,
            reused=[],
            reused_events=0,
            dead=dead.get(row.uri, 0),
            overflow=overflow.get(row.uri[:SOURCE_CHARACTERS], 0),
        )
        for row in connection.execute(UNNUMBERED, {"uri": None})
    ]
    return Audit(accounts, unnumbered, sum(overflow.values()))


def is_unnumbered(connection: Connection, source: str) -> bool:
    """Whether it is listed as a source that does not number its events."""
    return connection.execute(UNNUMBERED, {"uri": source}).first() is not None


def _ranges(row: Row[Any] | None, limit: int) -> list[tuple[int, int]]:
    return [] if row is None else list(zip(row.firsts, row.lasts, strict=True))[:limit]
