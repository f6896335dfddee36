"""One batch, one transaction. Knows no AMQP.

The rows are a pure function of the set of events, so a batch may be applied twice, split otherwise
or come late: attempts are upserted under their natural key, and branch rows computed from attempts.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from time import monotonic
from typing import Any

import msgspec
from msgspec import Struct
from psycopg2.errors import InvalidSqlStatementName
from sqlalchemy import Connection, Engine, TextClause, text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import DBAPIError

from consumer.database import SERVER_TROUBLE, DatabaseUnavailable, message_is_to_blame
from consumer.dead_letters import bury
from consumer.ledger import RECORD, arrivals_of
from consumer.messages import Message, Rejection, reject
from contract.events import Envelope, MirrorCompleted, MirrorFailed, MirrorStarted, ScriptRun
from contract.reasons import Reason

# Locks are taken in the order of the ids, by every transaction, so that none waits in a circle.
LOCK_BRANCHES = text("""
    SELECT id FROM branch WHERE id = ANY(CAST(:branch_ids AS bigint[]))
    ORDER BY id FOR NO KEY UPDATE
""")

IS_FAILURE = """
    is_so AND outcome = 'failed' AND (success_at IS NULL OR started_at > success_at)
"""
UPSERT = """
    INSERT INTO mirror_attempt AS known
        (branch_id, started_at, finished_at, outcome, revision_id, failure_reason)
    SELECT * FROM json_to_recordset(CAST(:attempts AS json)) AS attempt (
        branch_id bigint, started_at timestamptz, finished_at timestamptz, outcome text,
        revision_id text, failure_reason text)
    ON CONFLICT (branch_id, started_at) DO UPDATE SET
        finished_at = excluded.finished_at,
        outcome = excluded.outcome,
        revision_id = excluded.revision_id,
        failure_reason = excluded.failure_reason
    WHERE excluded.outcome IS NOT NULL AND (known.outcome IS NULL OR (
        excluded.finished_at,
        excluded.outcome = 'completed',
        coalesce(excluded.revision_id, excluded.failure_reason) IS NOT NULL,
        coalesce(excluded.revision_id, excluded.failure_reason, '') COLLATE "C"
    ) > (
        known.finished_at,
        known.outcome = 'completed',
        coalesce(known.revision_id, known.failure_reason) IS NOT NULL,
        coalesce(known.revision_id, known.failure_reason, '') COLLATE "C"
    ))
"""
UPSERT_ATTEMPTS = text(UPSERT)

# The row as it was, and what changes from the first changed attempt on, say all of a branch whose
# last success began before that: however many attempts it has, or failures, none of them is read.
# Returns the other branches, which PROJECT_BRANCHES must compute anew: something came late.
APPLY_ATTEMPTS = text(f"""
    WITH changed AS (
        {UPSERT} RETURNING branch_id, started_at, outcome, revision_id, failure_reason
    ),
    touched AS (
        SELECT branch_id, min(started_at) AS first FROM changed GROUP BY branch_id
    ),
    recent AS (
        SELECT *, true AS is_so, false AS was_failed FROM changed
        UNION ALL
        -- As it was before: a statement does not see its own changes.
        SELECT known.*,
            (known.branch_id, started_at) NOT IN (SELECT branch_id, started_at FROM changed),
            outcome IS NOT DISTINCT FROM 'failed'
        FROM touched CROSS JOIN LATERAL (
            SELECT branch_id, started_at, outcome, revision_id, failure_reason
            FROM mirror_attempt
            WHERE branch_id = touched.branch_id AND started_at >= touched.first
            OFFSET 0  -- by its index, branch by branch
        ) known
    ),
    dated AS (
        SELECT *, max(started_at) FILTER (WHERE is_so AND outcome = 'completed')
            OVER (PARTITION BY branch_id) AS success_at
        FROM recent
    ),
    state AS (
        SELECT
            branch_id,
            min(started_at) AS first,
            max(started_at) AS latest,
            max(success_at) AS success_at,
            max(revision_id) FILTER (WHERE is_so AND started_at = success_at) AS revision_id,
            count(*) FILTER (WHERE was_failed) AS failures_before,
            count(*) FILTER (WHERE {IS_FAILURE}) AS failures,
            (array_agg(failure_reason ORDER BY started_at DESC) FILTER (WHERE {IS_FAILURE}))[1]
                AS failure_reason
        FROM dated GROUP BY branch_id
    ),
    projected AS (
        UPDATE branch SET
            last_mirror_attempt = greatest(last_mirror_attempt, latest),
            last_mirrored = coalesce(success_at, last_mirrored),
            last_mirrored_id =
                CASE WHEN success_at IS NULL THEN last_mirrored_id ELSE revision_id END,
            mirror_failures = failures + CASE
                -- Not below 0, whoever changed the row by hand.
                WHEN success_at IS NULL THEN greatest(0, mirror_failures - failures_before)
                ELSE 0
            END,
            mirror_status_message = CASE
                WHEN failures > 0 THEN failure_reason
                WHEN success_at IS NULL THEN mirror_status_message
            END
        FROM state WHERE id = branch_id AND (first <= last_mirrored) IS NOT TRUE
    )
    SELECT branch_id FROM state JOIN branch ON id = branch_id WHERE first <= last_mirrored
""")

# Backwards along the primary key: no row before the last success is read.
PROJECT_BRANCHES = text("""
    UPDATE branch SET
        last_mirror_attempt = state.last_mirror_attempt,
        last_mirrored = state.last_mirrored,
        last_mirrored_id = state.last_mirrored_id,
        mirror_failures = state.mirror_failures,
        mirror_status_message = state.mirror_status_message
    FROM (
        SELECT
            touched.id,
            since.last_mirror_attempt,
            success.started_at AS last_mirrored,
            success.revision_id AS last_mirrored_id,
            since.mirror_failures,
            -- Without a failure since the last success, that success is what finished last.
            CASE WHEN since.mirror_failures > 0 THEN (
                SELECT failure_reason FROM mirror_attempt
                WHERE branch_id = touched.id AND outcome = 'failed'
                ORDER BY started_at DESC LIMIT 1
            ) END AS mirror_status_message
        FROM unnest(CAST(:branch_ids AS bigint[])) AS touched (id)
        LEFT JOIN LATERAL (
            SELECT started_at, revision_id FROM mirror_attempt
            WHERE branch_id = touched.id AND outcome = 'completed'
            ORDER BY started_at DESC LIMIT 1
        ) success ON true
        CROSS JOIN LATERAL (
            SELECT
                max(started_at) AS last_mirror_attempt,
                count(*) FILTER (WHERE outcome = 'failed') AS mirror_failures
            FROM mirror_attempt
            WHERE branch_id = touched.id
                AND started_at >= coalesce(success.started_at, '-infinity')
        ) since
    ) state
    WHERE branch.id = state.id AND (
        branch.last_mirror_attempt, branch.last_mirrored, branch.last_mirrored_id,
        branch.mirror_failures, branch.mirror_status_message
    ) IS DISTINCT FROM (
        state.last_mirror_attempt, state.last_mirrored, state.last_mirrored_id,
        state.mirror_failures, state.mirror_status_message
    )
""")

INSERT_SCRIPT_ACTIVITY = text("""
    INSERT INTO script_activity (name, hostname, date_started, date_completed)
    SELECT * FROM json_to_recordset(CAST(:runs AS json)) AS run (
        name text, hostname text, started_at timestamptz, completed_at timestamptz)
    ON CONFLICT DO NOTHING
""")

# So that a deferred constraint names its offender, not only at the commit.
CHECK_CONSTRAINTS = text("SET CONSTRAINTS ALL IMMEDIATE")

DISCARD_PLANS = text("DISCARD PLANS")

UNDO_TRIAL = text("ROLLBACK TO SAVEPOINT trial; RELEASE SAVEPOINT trial")

TRY_EACH = text("""
    SELECT place, error FROM try_each(CAST(:scripts AS json), CAST(:trouble AS text[]))
""")

PREPARED = {
    APPLY_ATTEMPTS: "apply_attempts",
    UPSERT_ATTEMPTS: "upsert_attempts",
    PROJECT_BRANCHES: "project_branches",
    INSERT_SCRIPT_ACTIVITY: "insert_script_activity",
    RECORD: "record",
}
"""What is done many times over is parsed and planned once."""
PLAN_SECONDS = 1.0
PIECE = 16
"""Events that are tried together before each is by itself: most batches have few offenders."""

Statement = tuple[TextClause, Mapping[str, object]]
Event = tuple[Message, Envelope]
Dead = tuple[Message, Rejection]


class Tally(Struct, frozen=True):
    """What became of a batch."""

    applied: int
    buried: Counter[Reason]


class Attempt(Struct, frozen=True, gc=False):
    """What is said of one attempt: a row of `mirror_attempt`."""

    branch_id: int
    started_at: datetime
    finished_at: datetime | None = None
    outcome: str | None = None
    revision_id: str | None = None
    failure_reason: str | None = None

    def supersedes(self, known: "Attempt | None") -> bool:
        """Whether the row changes where this comes to what is known, as UPSERT_ATTEMPTS decides."""
        return known is None or (
            self.outcome is not None and (known.outcome is None or self.rank() > known.rank())
        )

    def rank(self) -> tuple[datetime, bool, bool, str]:
        """Of two outcomes the one of higher rank holds, as UPSERT_ATTEMPTS decides it too.

        The contract orders by time, then completed before failed; that two outcomes of one kind at
        one time differ is settled by their text, so that the order of arrival never matters.
        """
        told = self.failure_reason if self.outcome == "failed" else self.revision_id
        finished_at = self.finished_at or self.started_at
        return finished_at, self.outcome == "completed", told is not None, told or ""


class Applier:
    """Applies batches to one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def check(self) -> None:
        """Runs every statement of an ordinary batch on no rows. Raises DatabaseUnavailable where
        one cannot run.

        What is subscribed to while the database cannot take it only uses up its delivery limit.
        """
        try:
            with self._engine.begin() as connection:
                connection.execute(LOCK_BRANCHES, {"branch_ids": []})
                connection.execute(APPLY_ATTEMPTS, {"attempts": "[]"})
                connection.execute(PROJECT_BRANCHES, {"branch_ids": []})
                connection.execute(INSERT_SCRIPT_ACTIVITY, {"runs": "[]"})
                connection.execute(RECORD, {"arrivals": "[]"})
                connection.execute(TRY_EACH, {"scripts": "[]", "trouble": []})
        except DBAPIError as error:
            raise DatabaseUnavailable.because(error) from error

    def apply(self, messages: Sequence[Message]) -> Tally:
        """Commits every message of the batch, as applied or as buried.

        Raises DBAPIError where the database is in trouble; then nothing of the batch is committed.
        """
        with self._engine.begin() as connection:
            dead = write_batch(connection, messages)
            bury(connection, dead)
        return Tally(len(messages) - len(dead), Counter(rejection.reason for _, rejection in dead))


def write_batch(connection: Connection, messages: Sequence[Message]) -> list[Dead]:
    """Applies what can be applied, within the caller's transaction, and returns what cannot; all of
    it is noted as having arrived.

    Raises DBAPIError for a database in trouble.
    """
    events, dead = _sift(connection, messages)
    arrivals = arrivals_of(messages)
    noting: list[Statement] = [] if arrivals is None else [(RECORD, {"arrivals": arrivals})]
    if not _try(connection, [*noting, *_shortcut(events)]):
        dead += _isolate(connection, events)
        for statement in noting:
            connection.execute(*statement)
    return dead


def lock_branches(connection: Connection, branch_ids: Collection[int]) -> set[int]:
    """Locks those of the branches that are registered, and returns them."""
    if not branch_ids:
        return set()
    return set(connection.scalars(LOCK_BRANCHES, {"branch_ids": list(branch_ids)}))


def branch_ids_of(messages: Iterable[Message]) -> set[int]:
    """The branches that the messages are about, as far as they can be read."""
    return {
        message.content.event.branch_id
        for message in messages
        if isinstance(message.content, Envelope)
        and not isinstance(message.content.event, ScriptRun)
    }


def _sift(connection: Connection, messages: Iterable[Message]) -> tuple[list[Event], list[Dead]]:
    """Locks the batch's branches; what is to be applied, and what cannot be."""
    registered = lock_branches(connection, branch_ids_of(messages))
    events: list[Event] = []
    dead: list[Dead] = []
    for message in messages:
        content = message.content
        if isinstance(content, Rejection):
            dead.append((message, content))
            continue
        event = content.event
        if not isinstance(event, ScriptRun) and event.branch_id not in registered:
            detail = (
                f"branch {event.branch_id} is not registered:"
                f" mirror-consumer branches add {event.branch_id} NAME, then replay"
            )
            dead.append((message, reject(content, Reason.UNKNOWN_BRANCH, detail)))
            continue
        events.append((message, content))
    return events, dead


def _shortcut(events: Sequence[Event]) -> list[Statement]:
    """All that the events do, without computing anew what follows from what is there."""
    return [(CHECK_CONSTRAINTS, {}), *_inserts(events, APPLY_ATTEMPTS)]


def _writes(events: Sequence[Event]) -> list[Statement]:
    """All that the events do."""
    return [*_inserts(events), *_projections(events), (CHECK_CONSTRAINTS, {})]


def _inserts(events: Sequence[Event], upsert: TextClause = UPSERT_ATTEMPTS) -> list[Statement]:
    attempts: dict[tuple[int, datetime], Attempt] = {}
    runs: set[tuple[str, str, datetime, datetime]] = set()
    for _, envelope in events:
        event = envelope.event
        if isinstance(event, ScriptRun):
            runs.add((event.name, event.hostname, event.started_at, event.completed_at))
            continue
        key = event.branch_id, event.started_at
        attempt = attempt_of(envelope.time, event)
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


def _projections(events: Sequence[Event]) -> list[Statement]:
    branch_ids = sorted(branch_ids_of(message for message, _ in events))
    return [(PROJECT_BRANCHES, {"branch_ids": branch_ids})] if branch_ids else []


def _try(connection: Connection, statements: Sequence[Statement]) -> bool:
    """Runs the statements, or none where the database refuses one; returns whether it took them.

    In one round trip, which is most of what a few rows cost; in another where something came late.
    """
    _prepare(connection)
    script = _as_trial(tuple((statement, *given) for statement, given in statements))
    parameters = {name: value for _, given in statements for name, value in given.items()}
    try:
        result = connection.execute(script, parameters)
        late = list(result.scalars()) if result.returns_rows else []
        if late:
            connection.execute(PROJECT_BRANCHES, {"branch_ids": late})
    except DBAPIError as error:
        if isinstance(error.orig, InvalidSqlStatementName):
            # A pooler has given this transaction a session that has prepared nothing.
            connection.execute(UNDO_TRIAL)
            del connection.info["planned_at"]
            return _try(connection, statements)
        if not message_is_to_blame(error):
            raise
        connection.execute(UNDO_TRIAL)
        return False
    return True


@cache
def _as_trial(statements: tuple[tuple[TextClause, *tuple[str, ...]], ...]) -> TextClause:
    texts = [
        _executing(statement, [f":{name}" for name in names]) for statement, *names in statements
    ]
    return text(";".join(["SAVEPOINT trial", *texts]))


def _isolate(connection: Connection, events: Sequence[Event]) -> list[Dead]:
    """Writes what the database accepts and returns what it does not.

    It mostly refuses a row that an event inserts, and that is found out without computing any
    branch. Only where it refuses what follows from the rows, each event is tried with all it does.
    """
    # Offenders are often of one branch, and so side by side.
    events = sorted(events, key=lambda event: event[1].event.partition_key)
    trial = connection.begin_nested()
    dead = _try_pieces(connection, events, _inserts)
    offenders = {id(message) for message, _ in dead}
    good = [event for event in events if id(event[0]) not in offenders]
    if _try(connection, [(CHECK_CONSTRAINTS, {}), *_projections(good)]):
        trial.commit()
        return dead
    trial.rollback()
    return _try_pieces(connection, events, _writes)


Writing = Callable[[Sequence[Event]], list[Statement]]


def _try_pieces(connection: Connection, events: Sequence[Event], writing: Writing) -> list[Dead]:
    pieces = [events[begin : begin + PIECE] for begin in range(0, len(events), PIECE)]
    refused = _try_each(connection, pieces, writing)
    suspects = [[event] for piece, _ in refused for event in piece]
    return [
        (message, reject(envelope, Reason.REJECTED_BY_DATABASE, error))
        for ((message, envelope),), error in _try_each(connection, suspects, writing)
    ]


def _try_each(
    connection: Connection, pieces: Sequence[Sequence[Event]], writing: Writing
) -> list[tuple[Sequence[Event], str]]:
    """Writes each piece by itself, all in one round trip; returns those refused, and why."""
    cursor: Any = connection.connection.cursor()
    scripts = [_as_script(writing(piece), cursor.mogrify) for piece in pieces]
    cursor.close()
    refused = connection.execute(
        TRY_EACH,
        {"scripts": msgspec.json.encode(scripts).decode(), "trouble": list(SERVER_TROUBLE)},
    )
    return [(pieces[place - 1], error.split("\n", 1)[0]) for place, error in refused]


def _prepare(connection: Connection) -> None:
    """What is prepared outlives the transaction, and its end. What is planned does not live long:
    a plan from when a table was small may read it whole, which takes seconds once it is large, and
    PostgreSQL keeps that plan until it has new statistics."""
    now = monotonic()
    planned_at = connection.info.get("planned_at")
    if planned_at is None:
        for preparation in _preparations():
            connection.execute(preparation)
    elif now - planned_at > PLAN_SECONDS:
        connection.execute(DISCARD_PLANS)
    else:
        return
    connection.info["planned_at"] = now


@cache
def _preparations() -> list[TextClause]:
    dialect = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
    preparations = [
        f"PREPARE {name} AS {statement.compile(dialect=dialect)}"
        for statement, name in PREPARED.items()
    ]
    # What was prepared stays, too, where the next preparation fails.
    return [text(each) for each in ["DEALLOCATE ALL", *preparations]]


def _as_script(statements: Sequence[Statement], quoted: Callable[..., bytes]) -> str:
    return ";".join(
        quoted(_executing(statement, ["%s"] * len(given)), tuple(given.values())).decode()
        for statement, given in statements
    )


def _executing(statement: TextClause, arguments: Sequence[str]) -> str:
    """What takes no arguments is too little to be worth preparing."""
    if not arguments:
        return statement.text
    return f"EXECUTE {PREPARED[statement]} ({', '.join(arguments)})"


def attempt_of(time: datetime, event: MirrorStarted | MirrorCompleted | MirrorFailed) -> Attempt:
    """What one event says of its attempt."""
    match event:
        case MirrorCompleted(branch_id, started_at, revision_id):
            return Attempt(branch_id, started_at, time, "completed", revision_id=revision_id)
        case MirrorFailed(branch_id, started_at, reason):
            return Attempt(branch_id, started_at, time, "failed", failure_reason=reason)
        case _:
            return Attempt(event.branch_id, event.started_at)
