"""What operators settle: numbers that will never come, and numbers that never were.

A decision is a row with who made it, when and why. It can be undone, which is a row as well: no row
is ever changed.
"""

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, text

from mirrorfeed.consumer.apply.ledger import BLOCK, fold_all, islands
from mirrorfeed.consumer.errors import LedgerError
from mirrorfeed.consumer.sources.audit import is_unnumbered
from mirrorfeed.contract.events import shown

FIND_SOURCE = text("""
    SELECT id, (SELECT max(last) FROM ledger_range WHERE source_id = id) AS highest
    FROM source WHERE uri = :uri
""")

COUNT_ARRIVED = text("""
    SELECT coalesce(sum(least(last, :last) - greatest(first, :first) + 1), 0)
    FROM ledger_range WHERE source_id = :source_id AND last >= :first AND first <= :last
""")

COUNT_REUSED = text("""
    SELECT count(*) FROM ledger_event, pg_catalog.unnest(reused) AS number
    WHERE source_id = :source_id AND pg_catalog.cardinality(reused) > 0
        AND number BETWEEN :first AND :last
""")

DECIDE = text("""
    INSERT INTO ledger_decision (kind, source_id, first, last, undoes, note)
    VALUES (:kind, :source_id, :first, :last, :undoes, :note) RETURNING id
""")

FORGET = text("""
    WITH gone AS (
        DELETE FROM ledger_range WHERE source_id = :source_id AND last >= :first
        RETURNING first, last, recorded_at
    ),
    kept AS (
        INSERT INTO ledger_range (source_id, first, last, recorded_at)
        SELECT :source_id, first, :first - 1, recorded_at FROM gone WHERE first < :first
    )
    INSERT INTO ledger_forgotten (decision_id, first, last, recorded_at)
    SELECT :decision_id, greatest(first, :first), last, recorded_at FROM gone
    RETURNING last - first + 1
""")

# Which ids the numbers came with is forgotten for good, and some before `first` with them.
FORGET_EVENTS = text(f"""
    DELETE FROM ledger_event WHERE source_id = :source_id AND block >= :first / {BLOCK}
""")

# What has arrived since may overlap it.
REMEMBER = text(f"""
    WITH remembered AS (
        DELETE FROM ledger_forgotten WHERE decision_id = :decision_id
        RETURNING first, last, recorded_at
    ),
    known AS (
        DELETE FROM ledger_range WHERE source_id = :source_id RETURNING first, last, recorded_at
    ),
    piece AS (
        SELECT CAST(:source_id AS bigint) AS source, * FROM remembered
        UNION ALL
        SELECT :source_id, * FROM known
    ),
    {islands("piece", "island")}
    INSERT INTO ledger_range (source_id, first, last, recorded_at)
    SELECT source, first, last, recorded_at FROM island
""")

DECISIONS = text("""
    SELECT
        decision.id, decision.kind, uri AS source, decision.first, decision.last, decision.note,
        decision.decided_by, decision.decided_at, decision.undoes, decision.source_id,
        undo.id AS undone_by
    FROM ledger_decision decision
    JOIN source ON source.id = decision.source_id
    LEFT JOIN ledger_decision undo ON undo.undoes = decision.id
    ORDER BY decision.id
""")


class Decision(Struct, frozen=True):
    """What somebody settled, and why."""

    id: int
    kind: str
    """`accept`, `forget` or `undo`."""
    source: str
    first: int
    last: int
    note: str
    decided_by: str
    """The user of the database."""
    decided_at: datetime
    undoes: int | None
    """For an undo: the decision that no longer holds."""
    undone_by: int | None
    """The decision that undid this one."""


class Settled(Struct, frozen=True):
    """A decision's number, and how many of the source's numbers it is about."""

    decision_id: int
    events: int


def decisions(connection: Connection) -> list[Decision]:
    """All decisions ever made, in order."""
    fields = Decision.__struct_fields__
    return [
        Decision(**{name: row._mapping[name] for name in fields})
        for row in connection.execute(DECISIONS)
    ]


def accept(connection: Connection, source: str, first: int, last: int, note: str) -> Settled:
    """The numbers from `first` to `last` no longer count as missing or reused; one that arrives
    after all counts as received.

    Raises LedgerError if none of them is missing or reused.
    """
    source_id, highest = _find(connection, source)
    if not 1 <= first <= last <= highest:
        raise LedgerError(
            f"the numbers of {shown(source)} go from 1 to {highest}; {first} to {last} is not"
            " within that"
        )
    span = {"source_id": source_id, "first": first, "last": last}
    missing = last - first + 1 - int(connection.execute(COUNT_ARRIVED, span).scalar_one())
    reused: int = connection.execute(COUNT_REUSED, span).scalar_one()
    if not missing + reused:
        raise LedgerError(f"nothing from {first} to {last} of {shown(source)} is missing or reused")
    return Settled(_decide(connection, "accept", note, span), missing + reused)


def forget(connection: Connection, source: str, above: int, note: str) -> Settled:
    """The source's numbers above `above` have not arrived, as far as the ledger knows. If a source
    does not number its events, it is only no longer listed.

    Raises LedgerError if there are none.
    """
    source_id, highest = _find(connection, source)
    if above == 0 and is_unnumbered(connection, source):
        span = {"source_id": source_id, "first": 1, "last": 1}
        return Settled(_decide(connection, "forget", note, span), 0)
    if highest <= above:
        raise LedgerError(f"{shown(source)} has no number above {above}; its highest is {highest}")
    span = {"source_id": source_id, "first": above + 1, "last": highest}
    decision_id = _decide(connection, "forget", note, span)
    forgotten = connection.scalars(FORGET, {**span, "decision_id": decision_id})
    connection.execute(FORGET_EVENTS, span)
    return Settled(decision_id, sum(forgotten))


def undo(connection: Connection, decision_id: int, note: str) -> Decision:
    """A decision no longer holds; returns it. Raises LedgerError if there is none to undo."""
    fold_all(connection)
    found = {each.id: each for each in decisions(connection)}
    decision = found.get(decision_id)
    if decision is None or decision.kind == "undo":
        raise LedgerError(
            f"there is no decision {decision_id} to undo: mirror-consumer audit decisions lists"
            " them"
        )
    if decision.undone_by is not None:
        raise LedgerError(f"decision {decision_id} was undone by {decision.undone_by} already")
    source_id, _ = _find(connection, decision.source)
    span = {"source_id": source_id, "first": decision.first, "last": decision.last}
    _decide(connection, "undo", note, span, undoes=decision_id)
    if decision.kind == "forget":
        connection.execute(REMEMBER, {"source_id": source_id, "decision_id": decision_id})
    return decision


def _find(connection: Connection, source: str) -> tuple[int, int]:
    """The source's id, and the highest number it has; 0 if it was forgotten."""
    fold_all(connection)
    row = connection.execute(FIND_SOURCE, {"uri": source}).one_or_none()
    if row is None:
        raise LedgerError(
            f"there is no source {shown(source)}: mirror-consumer sources lists those that are"
        )
    return row.id, row.highest or 0


def _decide(
    connection: Connection,
    kind: str,
    note: str,
    span: Mapping[str, int],
    undoes: int | None = None,
) -> int:
    values = {**span, "kind": kind, "note": note, "undoes": undoes}
    decision_id: int = connection.execute(DECIDE, values).scalar_one()
    return decision_id
