"""Applying dead letters again, through the applier of live events.

A letter is marked in the transaction that applies it: so it can neither be lost nor applied twice,
whoever is killed when. Rows are claimed with SKIP LOCKED, so that two operators share the work
rather than repeat it, and branches are locked before letters, as the worker does.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import groupby
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine, Row, func, select, text, update
from sqlalchemy.exc import DBAPIError
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from mirrorfeed.consumer.apply.batch import write_batch
from mirrorfeed.consumer.apply.burial import detail_of
from mirrorfeed.consumer.apply.message import (
    FUTURE_TOLERANCE,
    Message,
    Rejection,
    branch_id_of,
    read_message,
)
from mirrorfeed.consumer.apply.projection import Attempt, attempt_of, branch_ids_of, lock_branches
from mirrorfeed.consumer.branches.mirror_state import Difference, differences, mirror_states
from mirrorfeed.consumer.dead_letters.store import LETTERS, LetterState, Selection, get, lock
from mirrorfeed.consumer.errors import ConditionNotMet
from mirrorfeed.contract.events import Envelope, ScriptRun
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.wire import MAX_BODY_BYTES, position_of

CHUNK = 1000
LOOKED_AT_BYTES = MAX_BODY_BYTES + 1
"""A longer body stays dead, whatever follows."""
RATE_SECONDS = 0.25
"""How much of what a rate allows is done in one transaction."""
TRIES = 5
FIRST = datetime.min.replace(tzinfo=UTC)

# Another operator may have claimed or resolved some since they were selected.
CLAIM = text("""
    SELECT id, body FROM dead_letter
    WHERE id = ANY(CAST(:ids AS bigint[])) AND state = 'dead' FOR UPDATE SKIP LOCKED
""")

MARK_REPLAYED = text("""
    UPDATE dead_letter SET state = 'replayed', resolved_at = now()
    WHERE id = ANY(CAST(:ids AS bigint[]))
""")

MARK_DEAD = text("""
    UPDATE dead_letter SET reason = letter.reason, detail = letter.detail
    FROM json_to_recordset(CAST(:letters AS json)) AS letter (id bigint, reason text, detail text)
    WHERE dead_letter.id = letter.id
""")

KNOWN_ATTEMPTS = text("""
    SELECT branch_id, started_at, finished_at, outcome, revision_id, failure_reason
    FROM mirror_attempt
    JOIN json_to_recordset(CAST(:attempts AS json))
        AS wanted (branch_id bigint, started_at timestamptz) USING (branch_id, started_at)
""")

KNOWN_RUNS = text("""
    SELECT name, hostname, started_at, completed_at FROM script_activity
    JOIN json_to_recordset(CAST(:runs AS json)) AS wanted (
        name text, hostname text, started_at timestamptz, completed_at timestamptz
    ) USING (name, hostname)
    WHERE date_started = started_at AND date_completed = completed_at
""")

Run = tuple[str, str, datetime, datetime]


class StillDead(ConditionNotMet):
    """An edited message could not be applied either; the message says why."""


class Planned(Struct, frozen=True, gc=False, order=True):
    """A letter whose turn will come: in order of what it is about and when that began."""

    partition_key: str
    started_at: datetime
    occurred_at: datetime
    id: int
    digest: bytes
    """Of the body: one that somebody edits meanwhile is not what was looked at."""
    branch_id: int | None = None

    def is_still(self, body: bytes | None) -> bool:
        """Whether that, where it could be claimed, is what was looked at."""
        return body is not None and _digest(body[:LOOKED_AT_BYTES]) == self.digest


class Outcome(Struct, frozen=True, gc=False):
    """What became of one letter: `applied`, `unchanged` (the database knew it) or still `dead`."""

    id: int
    outcome: str
    reason: Reason | None = None
    detail: str | None = None


class Progress(Struct, frozen=True):
    """What one transaction did, or with `dry_run` would have done."""

    outcomes: list[Outcome]
    skipped: int
    """Letters in another operator's hands, edited meanwhile, or no longer dead."""
    differences: list[Difference]
    """Branch rows before and after; told by a dry run only."""


def plan(connection: Connection, selection: Selection) -> list[Planned]:
    """The selected letters as they are now, in the order in which they will be applied."""
    query = (
        select(LETTERS.c.id, func.substr(LETTERS.c.body, 1, LOOKED_AT_BYTES))
        .where(*selection.conditions())
        .order_by(LETTERS.c.id)
        .limit(selection.limit)
        .execution_options(yield_per=CHUNK)
    )
    return sorted(_planned(letter_id, bytes(body)) for letter_id, body in connection.execute(query))


def _planned(letter_id: int, body: bytes) -> Planned:
    position = position_of(body)
    if position is None:  # it will stay dead, whenever its turn comes
        return Planned("", FIRST, FIRST, letter_id, _digest(body))
    return Planned(
        position.partition_key,
        position.started_at,
        position.time,
        letter_id,
        _digest(body),
        position.branch_id,
    )


def _digest(body: bytes) -> bytes:
    return sha256(body).digest()


class Replay:
    """Applies planned letters, a transaction at a time; with `dry_run` each is rolled back."""

    def __init__(
        self,
        engine: Engine,
        planned: Sequence[Planned],
        *,
        dry_run: bool = False,
        future_tolerance: timedelta = FUTURE_TOLERANCE,
    ) -> None:
        self._engine = engine
        self._planned = planned
        self._dry_run = dry_run
        self._future_tolerance = future_tolerance

    def run(self, stopping: threading.Event, *, rate: float | None = None) -> Iterator[Progress]:
        """Says after each transaction what it did, until all are done or `stopping` is set.

        At most `rate` letters a second. Raises DBAPIError for a database that stays in trouble;
        what was said before is done.
        """
        retry = Retrying(
            retry=retry_if_exception_type(DBAPIError),  # such as a deadlock
            wait=wait_random_exponential(multiplier=0.1, max=2),
            stop=stop_after_attempt(TRIES),
            reraise=True,
        )
        began_at = time.monotonic()
        done = 0
        for chunk in self._chunks(rate):
            if rate is not None:
                stopping.wait(max(0.0, began_at + done / rate - time.monotonic()))
            if stopping.is_set():
                return
            yield retry(self._apply, chunk)
            done += len(chunk)

    def _chunks(self, rate: float | None) -> Iterator[Sequence[Planned]]:
        if self._dry_run:
            # What happens to a branch is one story, told from one state: it is not cut.
            chunk: list[Planned] = []
            for _, letters in groupby(self._planned, key=lambda each: each.partition_key):
                chunk += letters
                if len(chunk) >= CHUNK:
                    yield chunk
                    chunk = []
            if chunk:
                yield chunk
            return
        size = CHUNK if rate is None else max(1, min(CHUNK, int(rate * RATE_SECONDS)))
        for begin in range(0, len(self._planned), size):
            yield self._planned[begin : begin + size]

    def _apply(self, chunk: Sequence[Planned]) -> Progress:
        with self._engine.begin() as connection:
            progress = self._apply_within(connection, chunk)
            if self._dry_run:
                connection.rollback()
        return progress

    def _apply_within(self, connection: Connection, chunk: Sequence[Planned]) -> Progress:
        branch_ids = {each.branch_id for each in chunk if each.branch_id is not None}
        lock_branches(connection, branch_ids)
        before = mirror_states(connection, branch_ids) if self._dry_run else {}
        claimed = connection.execute(CLAIM, {"ids": [each.id for each in chunk]})
        bodies = {letter_id: bytes(body) for letter_id, body in claimed}
        ids = [each.id for each in chunk if each.is_still(bodies.get(each.id))]
        messages = [
            read_message(bodies[each], future_tolerance=self._future_tolerance) for each in ids
        ]
        known = _Known(connection, messages)
        dead = {id(message): rejection for message, rejection in write_batch(connection, messages)}
        outcomes = [
            _outcome(letter_id, dead.get(id(message), message.content), known)
            for letter_id, message in zip(ids, messages, strict=True)
        ]
        _mark(connection, outcomes)
        after = mirror_states(connection, branch_ids) if self._dry_run else {}
        return Progress(outcomes, len(chunk) - len(ids), differences(before, after))


class _Known:
    """What the database knows of what some messages are about, and then learns from them."""

    def __init__(self, connection: Connection, messages: Sequence[Message]) -> None:
        events = [
            message.content.event for message in messages if isinstance(message.content, Envelope)
        ]
        attempts = [event for event in events if not isinstance(event, ScriptRun)]
        runs = [event for event in events if isinstance(event, ScriptRun)]
        known_attempts = connection.execute(KNOWN_ATTEMPTS, {"attempts": _as_json(attempts)})
        known_runs = connection.execute(KNOWN_RUNS, {"runs": _as_json(runs)})
        self._attempts = {(row.branch_id, row.started_at): Attempt(*row) for row in known_attempts}
        self._runs: set[Run] = {tuple(row) for row in known_runs}

    def learn(self, envelope: Envelope) -> bool:
        """Whether the event is news."""
        event = envelope.event
        if isinstance(event, ScriptRun):
            run = event.name, event.hostname, event.started_at, event.completed_at
            is_news = run not in self._runs
            self._runs.add(run)
            return is_news
        key = event.branch_id, event.started_at
        attempt = attempt_of(envelope.time, event)
        is_news = attempt.supersedes(self._attempts.get(key))
        if is_news:
            self._attempts[key] = attempt
        return is_news


def _outcome(letter_id: int, fate: Envelope | Rejection, known: _Known) -> Outcome:
    if isinstance(fate, Rejection):
        return Outcome(letter_id, "dead", fate.reason, detail_of(fate))
    return Outcome(letter_id, "applied" if known.learn(fate) else "unchanged")


def _mark(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    replayed = [each.id for each in outcomes if each.outcome != "dead"]
    dead = [each for each in outcomes if each.outcome == "dead"]
    if replayed:
        connection.execute(MARK_REPLAYED, {"ids": replayed})
    if dead:
        connection.execute(MARK_DEAD, {"letters": _as_json(dead)})


def _as_json(rows: Sequence[Struct]) -> str:
    return msgspec.json.encode(rows).decode()


def edit(
    engine: Engine,
    letter_id: int,
    body: bytes,
    *,
    future_tolerance: timedelta = FUTURE_TOLERANCE,
) -> Row[Any]:
    """Replaces a dead letter's body and keeps what was delivered; returns the letter.

    Raises StillDead, having changed nothing, where the new body could not be applied either, and
    LetterError where the letter is not dead.
    """
    message = read_message(body, future_tolerance=future_tolerance)
    content = message.content
    if isinstance(content, Rejection):
        raise StillDead(_why_refused(letter_id, content))
    event = content.event
    with engine.begin() as connection:
        lock_branches(connection, branch_ids_of([message]))
        lock(connection, [letter_id], LetterState.DEAD)
        trial = connection.begin_nested()
        for _, rejection in write_batch(connection, [message]):
            raise StillDead(_why_refused(letter_id, rejection))
        trial.rollback()
        connection.execute(
            update(LETTERS)
            .where(LETTERS.c.id == letter_id)
            .values(
                body=body,
                original_body=func.coalesce(LETTERS.c.original_body, LETTERS.c.body),
                source=content.source,
                event_id=content.id,
                type=event.TYPE,
                branch_id=branch_id_of(event),
            )
        )
        return get(connection, letter_id)


def _why_refused(letter_id: int, rejection: Rejection) -> str:
    return (
        f"the new body could not be applied either ({rejection.reason}: {rejection.detail});"
        f" letter {letter_id} is as it was"
    )
