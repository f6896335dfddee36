"""Messages that could not be applied and were not kept, as their source had filled its letters of
that hour: how many there are, and what operators decide about them.

A message that comes again, and is applied or gets a letter, is still in the table. That it has a
letter can be seen here, that it was applied cannot: then an operator discards it.
"""

from datetime import datetime
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import Connection, Row, text

from mirrorfeed.consumer.apply.allowance import SOURCE_CHARACTERS

CHOSEN = f"""
    (resolved_at IS NOT NULL) = CAST(:is_discarded AS boolean)
    AND (:discarded_at IS NULL OR resolved_at = CAST(:discarded_at AS timestamptz))
    AND (:source IS NULL OR source = left(CAST(:source AS text), {SOURCE_CHARACTERS}))
    AND (:reason IS NULL OR reason = CAST(:reason AS text))
    AND (:since IS NULL OR seen_at >= CAST(:since AS timestamptz))
"""
"""The rows that a selection means."""
IS_NOT_KEPT = """
    NOT EXISTS (SELECT FROM dead_letter WHERE sha256(coalesce(original_body, body)) = digest)
"""

COUNT = text(f"""
    SELECT source, pg_catalog.count(DISTINCT digest) AS messages
    FROM letter_overflow, pg_catalog.unnest(digests) AS digest
    WHERE resolved_at IS NULL AND {IS_NOT_KEPT} GROUP BY source
""")

GROUP = text(f"""
    SELECT
        source, reason, pg_catalog.count(DISTINCT digest) AS messages,
        min(seen_at) AS first_seen_at, max(seen_at) AS last_seen_at,
        CASE WHEN resolved_at IS NOT NULL THEN note END AS note
    FROM letter_overflow, pg_catalog.unnest(digests) AS digest
    WHERE {CHOSEN} AND {IS_NOT_KEPT}
    GROUP BY source, reason, 6 ORDER BY messages DESC, first_seen_at, source, reason
""")

COUNT_SETTLED = f"""
    SELECT pg_catalog.count(DISTINCT digest) FROM settled, pg_catalog.unnest(digests) AS digest
    WHERE {IS_NOT_KEPT}
"""

DISCARD = text(f"""
    WITH settled AS (
        UPDATE letter_overflow SET resolved_at = now(), note = :note WHERE {CHOSEN}
        RETURNING digests
    )
    {COUNT_SETTLED}
""")

RESTORE = text(f"""
    WITH settled AS (
        UPDATE letter_overflow SET resolved_at = NULL WHERE {CHOSEN} RETURNING digests
    )
    {COUNT_SETTLED}
""")


class OverflowSelection(Struct, frozen=True):
    """Which messages that were not kept: those that meet every given criterion."""

    source: str | None = None
    reason: str | None = None
    since: datetime | None = None
    """The earliest time at which they may have been seen."""
    is_discarded: bool = False
    discarded_at: datetime | None = None
    """When one `discard_overflow` took them off the list."""


def count_overflow(connection: Connection) -> dict[str | None, int]:
    """How many messages of each source were not kept, and are not discarded; the key is None for
    those whose source could not be read."""
    return {row.source: int(row.messages) for row in connection.execute(COUNT)}


def group_overflow(connection: Connection, selection: OverflowSelection) -> list[Row[Any]]:
    """How many there are of each source and reason, most of them first."""
    return list(connection.execute(GROUP, structs.asdict(selection)))


def discard_overflow(connection: Connection, selection: OverflowSelection, note: str) -> int:
    """They do not matter; `note` says why. Returns how many messages these are."""
    given = {**structs.asdict(selection), "note": note}
    discarded: int = connection.execute(DISCARD, given).scalar_one()
    return discarded


def restore_overflow(connection: Connection, selection: OverflowSelection) -> int:
    """Undoes `discard_overflow`; the note stays. Returns how many messages these are."""
    restored: int = connection.execute(RESTORE, structs.asdict(selection)).scalar_one()
    return restored
