"""The table `operation`: what operators do, who does it, and how far it is.

Whoever carries out an operation holds it: each step begins by locking its row, and says in the same
transaction what it has done. A second runner, or one that was stopped meanwhile, does nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from mirrorfeed.consumer.dead_letters.store import pieces
from mirrorfeed.consumer.errors import OperationError, UnknownOperation

PIECE = 1000
"""Letters in one row of `operation_piece`."""
LEASE = timedelta(seconds=15)
"""Whoever carries out an operation says so at least every second. After this long it is gone."""

BEGIN = text("""
    INSERT INTO operation (
        kind, state, asked, letters, note, actor, ended_at, preview, rate, runner, renewed_at,
        result
    )
    VALUES (
        :kind, :state, CAST(:asked AS jsonb), :letters, :note, :actor,
        CASE WHEN :state = 'done' THEN now() END, CAST(:preview AS jsonb), :rate,
        CAST(:runner AS text), CASE WHEN CAST(:runner AS text) IS NOT NULL THEN now() END,
        CAST(:result AS jsonb)
    )
    RETURNING id
""")

ADD_PIECE = text("""
    INSERT INTO operation_piece (operation_id, number, letter_ids, digests, outcomes)
    VALUES (
        :operation_id, :number, :letter_ids, CAST(:digests AS bytea[]), CAST(:outcomes AS text[])
    )
""")

FORGET_PREVIEWS = text("""
    DELETE FROM operation WHERE state = 'previewed' AND created_at < now() - interval '1 day'
""")

GET = text("SELECT *, now() AS asked_at FROM operation WHERE id = :id")

LATEST = text("""
    SELECT *, now() AS asked_at FROM operation
    WHERE state <> 'previewed' AND (CAST(:before AS bigint) IS NULL OR id < :before)
    ORDER BY id DESC LIMIT :limit
""")

UNDER_WAY = text("""
    SELECT *, now() AS asked_at FROM operation
    WHERE state IN ('running', 'waiting')
        OR (state = 'failed' AND ended_at > now() - interval '1 day')
    ORDER BY id
""")

START = text("""
    UPDATE operation SET
        state = 'running', unattended = true, runner = NULL, renewed_at = NULL, ended_at = NULL,
        detail = NULL, note = coalesce(:note, note), rate = :rate, first_alone = :first_alone
    WHERE id = :id AND state = 'previewed'
""")

GO_ON = text("""
    UPDATE operation SET
        state = 'running', unattended = true, first_alone = false, ended_at = NULL, detail = NULL,
        runner = NULL, renewed_at = NULL
    WHERE id = :id AND (
        state IN ('waiting', 'stopped', 'failed')
        OR (state = 'running' AND NOT unattended AND renewed_at < now() - CAST(:lease AS interval))
    )
""")

STOP = text("""
    UPDATE operation SET state = 'stopped', ended_at = now(), runner = NULL
    WHERE id = :id AND kind <> 'repartition' AND state IN ('running', 'waiting')
""")

CLAIM = text("""
    UPDATE operation SET runner = :runner, renewed_at = now()
    WHERE id = (
        SELECT id FROM operation
        WHERE state = 'running' AND unattended AND (kind = 'repartition') = :of_partitions
            AND coalesce(renewed_at, '-infinity') < now() - CAST(:lease AS interval)
        ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING *, now() AS asked_at
""")

RELEASE = text("""
    UPDATE operation SET runner = NULL, renewed_at = NULL WHERE id = :id AND runner = :runner
""")

HOLD = text("""
    UPDATE operation SET renewed_at = clock_timestamp()
    WHERE id = :id AND state = 'running' AND runner = :runner
    RETURNING result
""")

NOTE = text("""
    UPDATE operation SET
        result = CAST(:result AS jsonb), state = :state, detail = :detail,
        ended_at = CASE WHEN :state IN ('done', 'failed', 'stopped') THEN now() END
    WHERE id = :id
""")

NOTED = text("SELECT state, result FROM operation WHERE id = :id AND runner = :runner FOR UPDATE")

NEXT_PIECE = text("""
    SELECT number, letter_ids, digests, pg_catalog.cardinality(outcomes) AS done
    FROM operation_piece
    WHERE operation_id = :id
        AND pg_catalog.cardinality(outcomes) < pg_catalog.cardinality(letter_ids)
    ORDER BY number LIMIT 1
""")

ADD_OUTCOMES = text("""
    UPDATE operation_piece SET outcomes = pg_catalog.array_cat(outcomes, CAST(:outcomes AS text[]))
    WHERE operation_id = :id AND number = :number
""")

LETTERS_WITH = text("""
    SELECT letter_id, outcome
    FROM operation_piece,
        ROWS FROM (pg_catalog.unnest(letter_ids), pg_catalog.unnest(outcomes))
            AS each (letter_id, outcome)
    WHERE operation_id = :id
        AND (CAST(:outcomes AS text[]) IS NULL OR outcome = ANY(CAST(:outcomes AS text[])))
    ORDER BY number LIMIT :limit
""")


class Kind(StrEnum):
    """What is done."""

    APPLY = "apply"
    DISCARD = "discard"
    RESTORE = "restore"
    REPARTITION = "repartition"


class State(StrEnum):
    """How far it is; `operation.state`, and what can be told from who carries it out."""

    PREVIEWED = "previewed"
    RUNNING = "running"
    WAITING = "waiting"
    STOPPED = "stopped"
    FAILED = "failed"
    DONE = "done"
    INTERRUPTED = "interrupted"
    """The command that carried it out is gone, and did not say how it ended."""


class Operation(Struct, frozen=True):
    """One operation as it was when it was read."""

    id: int
    kind: Kind
    state: State
    asked: dict[str, Any]
    """How the letters were selected, or `partitions`."""
    letters: int
    """How many it is about."""
    note: str | None
    actor: str
    database_user: str
    created_at: datetime
    ended_at: datetime | None
    preview: dict[str, Any] | None
    rate: float | None
    first_alone: bool
    unattended: bool
    runner: str | None
    result: dict[str, int]
    """How many letters by what has become of them."""
    detail: str | None

    @property
    def done(self) -> int:
        """How many letters have had their turn."""
        return sum(self.result.values())


class Noted(Struct, frozen=True):
    """How far an operation is, as each step notes it. No two of its steps note the same."""

    state: State
    result: Mapping[str, int]


class Piece(Struct, frozen=True):
    """The next letters of an operation: their ids, and digests of their bodies."""

    number: int
    letters: Sequence[tuple[int, bytes]]


def begin(
    connection: Connection,
    kind: Kind,
    asked: Mapping[str, Any],
    letters: Sequence[tuple[int, bytes]],
    actor: str,
    *,
    state: State,
    note: str | None = None,
    preview: Mapping[str, Any] | None = None,
    rate: float | None = None,
    runner: str | None = None,
    outcome: str | None = None,
) -> int:
    """A new operation with these letters, in this order; returns its id. With `outcome` they have
    had their turn already. Previews that nobody has confirmed for a day go away."""
    connection.execute(FORGET_PREVIEWS)
    operation_id: int = connection.execute(
        BEGIN,
        {
            "kind": kind,
            "state": state,
            "asked": _json(asked),
            "letters": len(letters),
            "note": note,
            "actor": actor,
            "preview": None if preview is None else _json(preview),
            "rate": rate,
            "runner": runner,
            "result": _json({outcome: len(letters)} if outcome else {}),
        },
    ).scalar_one()
    rows = [
        {
            "operation_id": operation_id,
            "number": number,
            "letter_ids": [letter_id for letter_id, _ in piece],
            "digests": [digest for _, digest in piece],
            "outcomes": [outcome] * len(piece) if outcome else [],
        }
        for number, piece in enumerate(pieces(letters, lambda _: 0, PIECE))
    ]
    if rows:
        connection.execute(ADD_PIECE, rows)
    return operation_id


def get(connection: Connection, operation_id: int) -> Operation:
    """Raises UnknownOperation if there is none."""
    row = connection.execute(GET, {"id": operation_id}).one_or_none()
    if row is None:
        raise UnknownOperation(f"there is no operation {operation_id}")
    return _operation(row)


def latest(connection: Connection, limit: int, before: int | None = None) -> list[Operation]:
    """The latest operations that were begun, or those before one of them, the latest first."""
    found = connection.execute(LATEST, {"limit": limit, "before": before})
    return [_operation(row) for row in found]


def under_way(connection: Connection) -> list[Operation]:
    """Those that run, wait for an operator, or have failed within a day."""
    return [_operation(row) for row in connection.execute(UNDER_WAY)]


def start(
    connection: Connection,
    operation_id: int,
    *,
    note: str | None = None,
    rate: float | None = None,
    first_alone: bool = False,
) -> bool:
    """What was previewed is to be carried out; false if it was started already."""
    given = {"id": operation_id, "note": note, "rate": rate, "first_alone": first_alone}
    return connection.execute(START, given).rowcount == 1


def go_on(connection: Connection, operation_id: int) -> bool:
    """What waits, was stopped, has failed or was interrupted goes on; false if there is nothing to
    go on with."""
    given = {"id": operation_id, "lease": LEASE}
    return connection.execute(GO_ON, given).rowcount == 1


def stop(connection: Connection, operation_id: int) -> bool:
    """The letters that have not had their turn stay as they are; false if it does not run. A move
    to other partitions cannot stop halfway."""
    return connection.execute(STOP, {"id": operation_id}).rowcount == 1


def claim(connection: Connection, runner: str, *, of_partitions: bool) -> Operation | None:
    """The next operation that nobody carries out, now held by `runner`."""
    given = {"runner": runner, "of_partitions": of_partitions, "lease": LEASE}
    row = connection.execute(CLAIM, given).one_or_none()
    return None if row is None else _operation(row)


def release(connection: Connection, operation_id: int, runner: str) -> None:
    """Somebody else may go on at once."""
    connection.execute(RELEASE, {"id": operation_id, "runner": runner})


def hold(connection: Connection, operation_id: int, runner: str) -> Counter[str]:
    """Keeps everybody else off the operation until the transaction ends, and returns its result so
    far. Raises OperationError if it was stopped, or is in other hands."""
    row = connection.execute(HOLD, {"id": operation_id, "runner": runner}).one_or_none()
    if row is None:
        raise OperationError(
            f"operation {operation_id} was stopped, or somebody else goes on with it"
        )
    return Counter(row.result)


def note(
    connection: Connection,
    operation_id: int,
    result: Mapping[str, int],
    state: State = State.RUNNING,
    detail: str | None = None,
) -> None:
    """How far it is."""
    given = {"id": operation_id, "result": _json(result), "state": state, "detail": detail}
    connection.execute(NOTE, given)


def noted(connection: Connection, operation_id: int, runner: str) -> Noted | None:
    """What was noted last, once nobody is about to note more; None if it is in other hands."""
    row = connection.execute(NOTED, {"id": operation_id, "runner": runner}).one_or_none()
    return None if row is None else Noted(State(row.state), Counter(row.result))


def next_piece(connection: Connection, operation_id: int) -> Piece | None:
    """The next letters that have not had their turn."""
    row = connection.execute(NEXT_PIECE, {"id": operation_id}).one_or_none()
    if row is None:
        return None
    letters = [
        (letter_id, bytes(digest))
        for letter_id, digest in zip(row.letter_ids, row.digests, strict=True)
    ]
    return Piece(row.number, letters[row.done :])


def add_outcomes(
    connection: Connection, operation_id: int, piece: Piece, outcomes: Sequence[str]
) -> None:
    """What has become of the first letters of the piece."""
    given = {"id": operation_id, "number": piece.number, "outcomes": list(outcomes)}
    connection.execute(ADD_OUTCOMES, given)


def letters_with(
    connection: Connection, operation_id: int, limit: int, outcomes: Sequence[str] | None = None
) -> list[tuple[int, str | None]]:
    """Letters of the operation and what has become of them, the first `limit` of those with one of
    these outcomes."""
    given = {"id": operation_id, "limit": limit, "outcomes": outcomes and list(outcomes)}
    return [(row.letter_id, row.outcome) for row in connection.execute(LETTERS_WITH, given)]


def _operation(row: Any) -> Operation:
    fields = {name: row._mapping[name] for name in Operation.__struct_fields__}
    fields["kind"] = Kind(fields["kind"])
    fields["state"] = State(fields["state"])
    is_gone = row.renewed_at is not None and row.asked_at - row.renewed_at > LEASE
    if fields["state"] is State.RUNNING and not row.unattended and is_gone:
        fields["state"] = State.INTERRUPTED
    return Operation(**fields)


def _json(document: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document).decode()
