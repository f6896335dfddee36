"""Which numbered events have arrived, by source: what shows that nothing was lost.

A source numbers its events 1, 2, 3 … without holes. Whoever commits a batch notes the numbers in
it (RECORD), which is an insert and waits for nobody. Now and then one worker merges the notes
into ranges (`fold`), so that the ledger's size follows what is missing, not what has passed.
`audit` reads both, and so is right whether and whenever anybody folds.
"""

from collections.abc import Iterable

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine, text

from mirrorfeed.consumer.apply.message import Message

FOLD_LOCK = 0x6C6564676572  # "ledger" in ASCII

RECORD = text("""
    INSERT INTO ledger_arrival (source, sequences)
    SELECT * FROM json_to_recordset(CAST(:arrivals AS json))
        AS arrival (source text, sequences bigint[])
""")

TRY_LOCK = text(f"SELECT pg_try_advisory_xact_lock({FOLD_LOCK})")

NAME_SOURCES = text("""
    INSERT INTO ledger_source (source)
    SELECT source FROM ledger_arrival EXCEPT SELECT source FROM ledger_source
    ON CONFLICT DO NOTHING
""")

# Gaps and islands: a piece begins an island where it does not touch what came before it.
ISLANDS = """
    begun AS (
        SELECT *, first - 1 > max(last) OVER (
            PARTITION BY source ORDER BY first, last
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS begins_island
        FROM piece
    ),
    numbered AS (
        SELECT *, count(*) FILTER (WHERE begins_island) OVER (
            PARTITION BY source ORDER BY first, last ROWS UNBOUNDED PRECEDING
        ) AS island
        FROM begun
    ),
    island AS (
        SELECT source, min(first) AS first, max(last) AS last, min(recorded_at) AS recorded_at
        FROM numbered GROUP BY source, island
    )
"""

# Only ranges at or above the lowest number that arrived are touched: old holes cost nothing.
FOLD = text(f"""
    WITH taken AS (
        DELETE FROM ledger_arrival USING ledger_source
        WHERE ledger_source.source = ledger_arrival.source
        RETURNING ledger_source.id AS source, sequences, recorded_at
    ),
    arrived AS (
        SELECT source, sequence, min(recorded_at) AS recorded_at
        FROM taken, unnest(sequences) AS sequence
        GROUP BY source, sequence
    ),
    span AS (
        SELECT source, min(sequence) AS first, max(sequence) AS last FROM arrived GROUP BY source
    ),
    touched AS (
        DELETE FROM ledger_range AS known USING span
        WHERE known.source_id = span.source
            AND known.last >= span.first - 1 AND known.first - 1 <= span.last
        RETURNING known.*
    ),
    piece AS (
        SELECT source, sequence AS first, sequence AS last, recorded_at FROM arrived
        UNION ALL
        SELECT source_id, first, last, recorded_at FROM touched
    ),
    {ISLANDS}
    INSERT INTO ledger_range (source_id, first, last, recorded_at)
    SELECT source, first, last, recorded_at FROM island
""")

# What is missing below an island is so since the first arrival of anything above it.
AUDIT = text(f"""
    WITH piece AS (
        SELECT source, first, last, recorded_at
        FROM ledger_range JOIN ledger_source ON id = source_id
        UNION ALL
        SELECT source, sequence, sequence, recorded_at
        FROM ledger_arrival, unnest(sequences) AS sequence
    ),
    {ISLANDS}
    SELECT source, first, last, extract(epoch FROM now() - min(recorded_at) OVER (
        PARTITION BY source ORDER BY first DESC
    )) AS age_seconds
    FROM island ORDER BY source, first
""")

COUNT_DEAD = text("""
    SELECT source, count(*) AS dead FROM dead_letter
    WHERE state = 'dead' AND source IS NOT NULL GROUP BY source
""")


class MissingRange(Struct, frozen=True):
    """Numbers that have not arrived, both ends included, though higher ones have for so long."""

    first: int
    last: int
    missing_seconds: float


class SourceAccount(Struct, frozen=True):
    """What is known of one source's events."""

    source: str
    highest: int
    received: int
    """How many different numbers arrived, applied or buried."""
    missing: list[MissingRange]
    dead: int
    """How many of its letters wait for an operator."""

    @property
    def missing_count(self) -> int:
        return sum(each.last - each.first + 1 for each in self.missing)


def arrivals_of(messages: Iterable[Message]) -> str | None:
    """What RECORD notes of the messages, in the transaction that applies or buries them.

    A message without a number, or whose number cannot be read, is simply not audited.
    """
    arrivals: dict[str, list[int]] = {}
    for message in messages:
        content = message.content
        if content.sequence is not None and content.source is not None:
            arrivals.setdefault(content.source, []).append(content.sequence)
    if not arrivals:
        return None
    rows = [{"source": source, "sequences": arrivals[source]} for source in arrivals]
    return msgspec.json.encode(rows).decode()


def fold(engine: Engine) -> bool:
    """Merges what was noted into ranges; False where another worker is doing just that."""
    with engine.begin() as connection:
        if not connection.scalar(TRY_LOCK):
            return False
        connection.execute(NAME_SOURCES)
        connection.execute(FOLD)
    return True


def audit(connection: Connection, *, grace_seconds: float = 0.0) -> list[SourceAccount]:
    """Every numbered source's account, by name.

    What is missing for less than `grace_seconds` may still be on its way, and does not count.
    That the latest events of a source never arrived, only its publisher's status can show.
    """
    dead = {row.source: row.dead for row in connection.execute(COUNT_DEAD)}
    islands: dict[str, list[tuple[int, int, float]]] = {}
    for source, first, last, age_seconds in connection.execute(AUDIT):
        islands.setdefault(source, []).append((first, last, float(age_seconds)))
    accounts = []
    for source, ranges in islands.items():
        missing = []
        highest = 0
        for first, last, age_seconds in ranges:
            if first > highest + 1 and age_seconds >= grace_seconds:
                missing.append(MissingRange(highest + 1, first - 1, age_seconds))
            highest = last
        received = sum(last - first + 1 for first, last, _ in ranges)
        accounts.append(SourceAccount(source, highest, received, missing, dead.get(source, 0)))
    return accounts
