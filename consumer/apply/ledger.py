"""Which numbered events have arrived, by source: the evidence that nothing was lost.

A source numbers its events 1, 2, 3 … without gaps. The transaction of each batch notes its numbers
(RECORD), which is an insert and waits for nobody. Now and then one worker merges the notes into
ranges (`fold`), so that the ledger grows with what is missing, not with what has passed. Of each
source's latest numbers it also keeps the event ids, so that a number that is used again is noticed.
`mirrorfeed.consumer.sources.audit` reads both, and so is right whether or not anybody has folded.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import msgspec
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.message import Message
from mirrorfeed.consumer.database import array_of, is_lock_timeout

PIECE_NOTES = 2000
PIECE_BYTES = 256 * 1024
"""The most notes, and the most bytes of numbers in them, that one transaction folds."""

BLOCK = 64
"""Numbers whose event ids are one row: as many as a bigint has bits."""
KEPT_BLOCKS = 1024
"""How far back the ids of a source are known, in rows."""

RECORD = text("""
    INSERT INTO ledger_arrival (source, sequences, ids)
    SELECT * FROM json_to_recordset(CAST(:arrivals AS json))
        AS arrival (source text, sequences bigint[], ids bigint[])
""")

# Whoever may only read cannot hold it; noting an arrival and reading do not wait for it.
LOCK = text("LOCK TABLE ledger_range IN SHARE ROW EXCLUSIVE MODE")
TRY_LOCK = text(f"{LOCK.text} NOWAIT")
HAS_NOTES = text("SELECT EXISTS (SELECT FROM ledger_arrival)")


def islands(piece: str, island: str) -> str:
    """Gaps and islands: joins those pieces of each source that overlap or touch.

    A piece starts an island if it does not touch anything before it.
    """
    return f"""
    {island}_begun AS (
        SELECT *, first - 1 > max(last) OVER (
            PARTITION BY source ORDER BY first, last
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS begins_island
        FROM {piece}
    ),
    {island}_numbered AS (
        SELECT *, count(*) FILTER (WHERE begins_island) OVER (
            PARTITION BY source ORDER BY first, last ROWS UNBOUNDED PRECEDING
        ) AS island
        FROM {island}_begun
    ),
    {island} AS (
        SELECT source, min(first) AS first, max(last) AS last, min(recorded_at) AS recorded_at
        FROM {island}_numbered GROUP BY source, island
    )
    """


# Only the ranges that the notes change are read and written: no matter how many gaps lie between
# them, each island of numbers finds what it touches through the index. A number noted again changes
# no range. An array's size is that of its stored form, so measuring it does not unpack it.
#
# Most numbers of a busy source fill whole blocks, each number once. Such a block is written as it
# is, and counts as one run; only what is left is looked at number by number.
FOLD = text(f"""
    WITH waiting AS (
        SELECT place, sum(size_bytes) OVER (ORDER BY place) - size_bytes AS bytes_before
        FROM (
            SELECT ctid AS place, pg_catalog.pg_column_size(sequences) AS size_bytes
            FROM ledger_arrival LIMIT :notes
        ) note
    ),
    taken AS (
        DELETE FROM ledger_arrival
        WHERE ctid = ANY (ARRAY(SELECT place FROM waiting WHERE bytes_before < :size_bytes))
        RETURNING *
    ),
    heard AS (
        SELECT source, min(recorded_at) AS first_at, max(recorded_at) AS last_at
        FROM taken GROUP BY source
    ),
    named AS (
        INSERT INTO source (uri, first_heard_at, last_heard_at)
        SELECT source, first_at, last_at FROM heard
        WHERE NOT EXISTS (SELECT FROM source known WHERE known.uri = heard.source)
        RETURNING *
    ),
    heard_again AS (
        UPDATE source known SET last_heard_at = last_at
        FROM heard WHERE known.uri = heard.source AND last_heard_at < last_at
    ),
    gathered AS (
        SELECT
            source_id, sequence / {BLOCK} AS block, min(recorded_at) AS recorded_at,
            pg_catalog.array_agg(sequence) AS sequences,
            pg_catalog.array_agg(event) AS events,
            pg_catalog.array_agg(recorded_at) AS times,
            pg_catalog.array_agg(CAST(event & 2147483647 AS integer) ORDER BY sequence) AS ids,
            count(*) FILTER (WHERE event > 0) = {BLOCK} AND count(*) = {BLOCK}
                AND bit_or(CAST(1 AS bigint) << CAST(sequence % {BLOCK} AS integer)) = -1 AS is_full
        FROM (
            SELECT coalesce(known.id, named.id) AS source_id, taken.*
            FROM taken
            LEFT JOIN source known ON known.uri = taken.source
            LEFT JOIN named ON named.uri = taken.source
            OFFSET 0
        ) note
        CROSS JOIN ROWS FROM (pg_catalog.unnest(sequences), pg_catalog.unnest(ids))
            AS each (sequence, event)
        GROUP BY source_id, sequence / {BLOCK}
    ),
    checked AS (
        SELECT *, is_full AND NOT EXISTS (
            SELECT FROM ledger_event known
            WHERE known.source_id = gathered.source_id AND known.block = gathered.block
        ) AS is_whole
        FROM gathered
    ),
    whole AS (SELECT source_id AS source, block, ids, recorded_at FROM checked WHERE is_whole),
    number AS (
        SELECT source_id AS source, sequence, event, each.recorded_at
        FROM checked CROSS JOIN ROWS FROM (
            pg_catalog.unnest(sequences), pg_catalog.unnest(events), pg_catalog.unnest(times)
        ) AS each (sequence, event, recorded_at)
        WHERE NOT is_whole
    ),
    run AS (
        SELECT source, {BLOCK} * block AS first, {BLOCK} * block + {BLOCK - 1} AS last, recorded_at
        FROM whole
        UNION ALL
        SELECT source, sequence, sequence, recorded_at FROM number
    ),
    {islands("run", "arrived")},
    news AS (
        SELECT arrived.*, greatest(
            arrived.last, CASE WHEN above.first - 1 <= arrived.last THEN above.last END
        ) AS touches_up_to
        FROM arrived LEFT JOIN LATERAL (
            SELECT first, last, recorded_at FROM ledger_range
            WHERE source_id = source AND last >= arrived.last ORDER BY last LIMIT 1
        ) above ON true
        WHERE (above.first <= arrived.first AND above.recorded_at <= arrived.recorded_at)
            IS NOT TRUE
    ),
    touched AS (
        DELETE FROM ledger_range USING news
        WHERE source_id = source
            AND ledger_range.last BETWEEN news.first - 1 AND news.touches_up_to
        RETURNING source_id, ledger_range.first, ledger_range.last, ledger_range.recorded_at
    ),
    piece AS (
        SELECT source, first, last, recorded_at FROM news UNION ALL SELECT * FROM touched
    ),
    {islands("piece", "island")},
    widened AS (
        INSERT INTO ledger_range (source_id, first, last, recorded_at)
        SELECT source, first, last, recorded_at FROM island
    ),
    told AS (
        SELECT DISTINCT
            source, sequence / {BLOCK} AS block, CAST(sequence % {BLOCK} AS integer) AS place,
            CAST(event & 2147483647 AS integer) AS event
        FROM number WHERE event > 0
    ),
    block AS (SELECT DISTINCT source, block FROM told),
    before AS (
        SELECT source, block.block, CAST(place - 1 AS integer) AS place, event
        FROM block
        JOIN ledger_event ON source_id = source AND ledger_event.block = block.block
        CROSS JOIN pg_catalog.unnest(ids) WITH ORDINALITY AS each (event, place)
        WHERE event <> 0
    ),
    -- A place for each number, known or not. A join would be a nested loop.
    placed AS (
        SELECT
            source, block, place,
            coalesce(max(event) FILTER (WHERE is_first), min(event), 0) AS event,
            min(event) <> max(event) AS is_reused
        FROM (
            SELECT *, false AS is_first FROM told
            UNION ALL
            SELECT *, true FROM before
            UNION ALL
            SELECT source, block, place, NULL, false
            FROM block CROSS JOIN pg_catalog.generate_series(0, {BLOCK - 1}) AS place
        ) each
        GROUP BY source, block, place
    ),
    kept AS (
        INSERT INTO ledger_event AS known (source_id, block, ids, reused)
        SELECT
            source, block, pg_catalog.array_agg(event ORDER BY place),
            coalesce(
                pg_catalog.array_agg({BLOCK} * block + place) FILTER (WHERE is_reused), '{{}}'
            )
        FROM placed GROUP BY source, block
        UNION ALL
        SELECT source, block, ids, '{{}}' FROM whole
        ON CONFLICT (source_id, block) DO UPDATE SET
            ids = excluded.ids,
            reused = ARRAY(
                SELECT DISTINCT pg_catalog.unnest(
                    pg_catalog.array_cat(known.reused, excluded.reused)
                )
            )
    ),
    outdated AS (
        DELETE FROM ledger_event USING (
            SELECT source_id AS source, max(block) AS newest FROM checked GROUP BY source_id
        ) latest
        WHERE source_id = source AND block < newest - {KEPT_BLOCKS}
            AND pg_catalog.cardinality(reused) = 0
    )
    SELECT count(*), count(*) < (SELECT count(*) FROM waiting) OR count(*) = :notes FROM taken
""")


class Piece(NamedTuple):
    """What one transaction has folded."""

    notes: int
    has_left: bool
    """Whether there may be more notes that were there before."""


Arrivals = Mapping[str, tuple[Sequence[int], Sequence[str]]]
"""For each source that was heard: its numbers, and their event ids if these are certain."""


def arrivals_of(messages: Iterable[Message], *, as_published: bool = True) -> Arrivals:
    """The arrivals in a batch. A message without a number, or whose number cannot be read, is not
    audited, but its source was heard.

    The ids are only certain if the messages come `as_published`: operators may edit a letter.
    """
    arrivals: dict[str, tuple[list[int], list[str]]] = {}
    for message in messages:
        content = message.content
        source = content.source
        if source is None:
            continue
        if source not in arrivals:
            arrivals[source] = [], []
        if content.sequence is not None:
            sequences, ids = arrivals[source]
            sequences.append(content.sequence)
            if as_published:
                ids.append(content.id or "")
    return arrivals


def note_of(arrivals: Arrivals) -> str:
    """What RECORD notes, in the transaction that applies or buries the messages."""
    rows = [
        {
            "source": source,
            "sequences": array_of(sequences),
            "ids": array_of(map(crc32, map(str.encode, ids))),
        }
        for source, (sequences, ids) in arrivals.items()
    ]
    return msgspec.json.encode(rows).decode()


def has_notes(connection: Connection) -> bool:
    """Whether there is anything to fold."""
    return bool(connection.scalar(HAS_NOTES))


def fold(engine: Engine, *, until: Callable[[], bool] = lambda: False) -> bool:
    """Merges the notes into ranges, or those that it comes to before `until` returns True. Returns
    False if another worker is folding at the moment.

    It works in pieces, each a short transaction that nobody waits for. It ends with the first piece
    that leaves nothing: the few notes that have come meanwhile cost less together with others.
    """
    piece = fold_piece(engine)
    while piece and piece.has_left and not until():
        piece = fold_piece(engine)
    return piece is not None


def fold_piece(engine: Engine) -> Piece | None:
    """Merges some of the notes; None if another worker is folding at the moment."""
    with engine.connect() as connection:
        try:
            connection.execute(TRY_LOCK)
        except DBAPIError as error:
            if is_lock_timeout(error):
                return None
            raise
        piece = _fold_piece(connection)
        connection.commit()
    return piece


def fold_all(connection: Connection) -> None:
    """Merges all the notes, and keeps others from folding until the transaction ends."""
    connection.execute(LOCK)
    while _fold_piece(connection).notes:
        pass


def _fold_piece(connection: Connection) -> Piece:
    return Piece(*connection.execute(FOLD, {"notes": PIECE_NOTES, "size_bytes": PIECE_BYTES}).one())
