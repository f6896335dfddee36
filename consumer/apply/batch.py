"""What one batch writes, within its transaction. Knows no AMQP.

The rows are a pure function of the set of events, so a batch may be applied twice, split
differently or come late: attempts are upserted under their natural key, and branch rows are
computed from attempts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.ledger import RECORD, Arrivals, note_of
from mirrorfeed.consumer.apply.message import Message, Rejection, branch_ids_of, reject
from mirrorfeed.consumer.apply.projection import (
    APPLY_ATTEMPTS,
    PROJECT_BRANCHES,
    UPSERT_ATTEMPTS,
    Attempt,
    attempt_of,
    lock_branches,
    project_branches,
)
from mirrorfeed.consumer.apply.statements import (
    BEGIN_TRIAL,
    INSERT_SCRIPT_ACTIVITY,
    UNDO_TRIAL,
    Statement,
    as_script,
    at_once,
    forget_prepared,
)
from mirrorfeed.consumer.database import SERVER_TROUBLE, message_is_to_blame
from mirrorfeed.contract.events import Envelope, MirrorEvent, ScriptRun, SpoolHeartbeat
from mirrorfeed.contract.reasons import Reason

# So that a deferred constraint is checked before the commit, while its offender can be found.
CHECK_CONSTRAINTS = text("SET CONSTRAINTS ALL IMMEDIATE")

TRY_EACH = text("""
    SELECT place, error FROM try_each(CAST(:scripts AS json), CAST(:trouble AS text[]))
""")

PIECE = 16
"""Events tried together before each is tried alone: most batches have few offenders."""

Applicable = tuple[Message, Envelope]
"""A message that can be applied, and its content."""
Dead = tuple[Message, Rejection]
"""A message that cannot be applied, and why."""
Writing = Callable[[Sequence[Applicable]], list[Statement]]
"""Turns events into the statements that write them."""


def write_batch(
    connection: Connection,
    messages: Sequence[Message],
    arrivals: Arrivals,
    source_ids: Mapping[str, int],
) -> list[Dead]:
    """Applies what can be applied, within the caller's transaction, and returns the rest. All of it
    is noted as having arrived.

    Attempts name their source as far as `source_ids` has its number. Raises DBAPIError if the
    database is in trouble.
    """
    events, dead = _sift(connection, messages)
    notes = noting(arrivals)
    if not _try(connection, [*notes, *_shortcut(source_ids, events)]):
        dead += _isolate(connection, source_ids, events)
        for statement in notes:
            connection.execute(*statement)
    return dead


def _sift(
    connection: Connection, messages: Iterable[Message]
) -> tuple[list[Applicable], list[Dead]]:
    """Locks the batch's branches; returns what can be applied, and what cannot."""
    registered = lock_branches(connection, branch_ids_of(messages))
    events: list[Applicable] = []
    dead: list[Dead] = []
    for message in messages:
        content = message.content
        if isinstance(content, Rejection):
            dead.append((message, content))
            continue
        event = content.event
        if isinstance(event, MirrorEvent) and event.branch_id not in registered:
            detail = (
                f"branch {event.branch_id} is not registered:"
                f" mirror-consumer branches add {event.branch_id} NAME, then replay"
            )
            dead.append((message, reject(content, Reason.UNKNOWN_BRANCH, detail)))
            continue
        events.append((message, content))
    return events, dead


def noting(arrivals: Arrivals) -> list[Statement]:
    """Notes what has arrived."""
    return [(RECORD, {"arrivals": note_of(arrivals)})] if arrivals else []


def _shortcut(source_ids: Mapping[str, int], events: Sequence[Applicable]) -> list[Statement]:
    """Everything that the events do; the cost depends on what changes, not on what is there."""
    return [(CHECK_CONSTRAINTS, {}), *inserts(source_ids, events, APPLY_ATTEMPTS)]


def _writes(source_ids: Mapping[str, int], events: Sequence[Applicable]) -> list[Statement]:
    """The same, step by step, so that each event can be tried alone."""
    return [*inserts(source_ids, events), *_projections(events), (CHECK_CONSTRAINTS, {})]


def inserts(
    source_ids: Mapping[str, int],
    events: Sequence[Applicable],
    upsert: TextClause = UPSERT_ATTEMPTS,
) -> list[Statement]:
    """Inserts the events' rows; if several are about one attempt, the one that holds."""
    attempts: dict[tuple[int, datetime], Attempt] = {}
    runs: set[tuple[str, str, datetime, datetime]] = set()
    for _, envelope in events:
        event = envelope.event
        if isinstance(event, ScriptRun):
            runs.add((event.name, event.hostname, event.started_at, event.completed_at))
            continue
        if isinstance(event, SpoolHeartbeat):  # that it has arrived is all that it says
            continue
        key = event.branch_id, event.started_at
        attempt = attempt_of(envelope.time, event, source_ids.get(envelope.source))
        if attempt.supersedes(attempts.get(key)):
            attempts[key] = attempt
    statements: list[Statement] = []
    if runs:
        columns = ("name", "hostname", "started_at", "completed_at")
        named = [dict(zip(columns, run, strict=True)) for run in sorted(runs)]
        statements.append((INSERT_SCRIPT_ACTIVITY, {"runs": msgspec.json.encode(named).decode()}))
    if attempts:
        rows = [attempts[key] for key in sorted(attempts)]
        statements.append((upsert, {"attempts": msgspec.json.encode(rows).decode()}))
    return statements


def _projections(events: Sequence[Applicable]) -> list[Statement]:
    """Computes the events' branches from all their attempts."""
    branch_ids = sorted(branch_ids_of(message for message, _ in events))
    return [(PROJECT_BRANCHES, {"branch_ids": branch_ids})] if branch_ids else []


def _try(connection: Connection, statements: Sequence[Statement]) -> bool:
    """Runs all the statements, or none if the database refuses one; returns whether it took them.

    In one round trip, which is most of the cost of a few rows; if something came late, in two.
    """
    try:
        result = at_once(connection, [(BEGIN_TRIAL, {}), *statements])
        late = list(result.scalars()) if result.returns_rows else []
        if late:
            project_branches(connection, late)
    except DBAPIError as error:
        if forget_prepared(connection, error):
            connection.execute(UNDO_TRIAL)
            return _try(connection, statements)
        if not message_is_to_blame(error):
            raise
        connection.execute(UNDO_TRIAL)
        return False
    return True


def _isolate(
    connection: Connection, source_ids: Mapping[str, int], events: Sequence[Applicable]
) -> list[Dead]:
    """Writes what the database accepts and returns the rest.

    Usually it refuses a row that an event inserts, and no branch needs to be computed to find out
    which. Only if it refuses what follows from the rows is each event tried with all its effects.
    """
    # Offenders often belong to one branch: sorting puts them side by side.
    events = sorted(events, key=lambda event: event[1].partition_key)
    trial = connection.begin_nested()
    dead = _try_pieces(connection, events, partial(inserts, source_ids))
    offenders = {id(message) for message, _ in dead}
    good = [event for event in events if id(event[0]) not in offenders]
    if _try(connection, [(CHECK_CONSTRAINTS, {}), *_projections(good)]):
        trial.commit()
        return dead
    trial.rollback()
    return _try_pieces(connection, events, partial(_writes, source_ids))


def _try_pieces(
    connection: Connection, events: Sequence[Applicable], writing: Writing
) -> list[Dead]:
    pieces = [events[begin : begin + PIECE] for begin in range(0, len(events), PIECE)]
    refused = _try_each(connection, pieces, writing)
    suspects = [[event] for piece, _ in refused for event in piece]
    return [
        (message, reject(envelope, Reason.REJECTED_BY_DATABASE, error))
        for ((message, envelope),), error in _try_each(connection, suspects, writing)
    ]


def _try_each(
    connection: Connection, pieces: Sequence[Sequence[Applicable]], writing: Writing
) -> list[tuple[Sequence[Applicable], str]]:
    """Writes each piece separately, all in one round trip; returns those refused, and why."""
    cursor: Any = connection.connection.cursor()
    scripts = [as_script(writing(piece), cursor.mogrify) for piece in pieces]
    cursor.close()
    refused = connection.execute(
        TRY_EACH,
        {"scripts": msgspec.json.encode(scripts).decode(), "trouble": list(SERVER_TROUBLE)},
    )
    return [(pieces[place - 1], error.split("\n", 1)[0]) for place, error in refused]
