"""One batch, one transaction. Knows no AMQP.

The rows are a pure function of the set of events, so a batch may be applied twice, split
differently or come late: attempts are upserted under their natural key, and branch rows are
computed from attempts.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, get_args

import msgspec
from msgspec import Struct, field
from sqlalchemy import Connection, Engine, TextClause, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.allowance import Floods, Sent
from mirrorfeed.consumer.apply.blockers import LOOK_SECONDS, Blocker, find_blockers
from mirrorfeed.consumer.apply.burial import bury
from mirrorfeed.consumer.apply.large import LargeMessage, bury_large
from mirrorfeed.consumer.apply.ledger import RECORD, Arrivals, arrivals_of, note_of
from mirrorfeed.consumer.apply.message import Message, Rejection, branch_ids_of, reject
from mirrorfeed.consumer.apply.projection import (
    APPLY_ATTEMPTS,
    APPLY_FEW,
    LOCK_BRANCHES,
    LOCK_FREE_BRANCHES,
    PROJECT_BRANCHES,
    REGISTERED,
    UPSERT_ATTEMPTS,
    Attempt,
    attempt_of,
    lock_branches,
    project_branches,
)
from mirrorfeed.consumer.apply.reporters import Reporters
from mirrorfeed.consumer.apply.statements import (
    BEGIN_TRIAL,
    INSERT_SCRIPT_ACTIVITY,
    UNDO_TRIAL,
    Statement,
    as_script,
    at_once,
    forget_prepared,
)
from mirrorfeed.consumer.apply.suspects import (
    FORGET,
    MAX_TRIALS,
    NOTE,
    TRIED,
    UNCOUNT,
    MustWait,
    Suspects,
    unread,
)
from mirrorfeed.consumer.database import (
    SERVER_TROUBLE,
    array_of,
    autocommit,
    message_is_to_blame,
    unavailable,
)
from mirrorfeed.contract.events import Envelope, Event, MirrorEvent, ScriptRun, SpoolHeartbeat
from mirrorfeed.contract.reasons import Reason

# So that a deferred constraint is checked before the commit, while its offender can be found.
CHECK_CONSTRAINTS = text("SET CONSTRAINTS ALL IMMEDIATE")

LIMIT_WAITING = text("SELECT set_config('lock_timeout', :limit, true)")

TRY_EACH = text("""
    SELECT place, error FROM try_each(CAST(:scripts AS json), CAST(:trouble AS text[]))
""")

EVENTS: tuple[type[Event], ...] = get_args(Event)
FEW = 16
"""Messages that are first tried in one round trip, as if none of them were refused. To wait for
each answer costs a batch of a few as much as all the rest; a larger one would be tried in vain too
often."""
PIECE = 16
"""Events tried together before each is tried alone: most batches have few offenders."""

Applicable = tuple[Message, Envelope]
"""A message that can be applied, and its content."""
Dead = tuple[Message, Rejection]
"""A message that cannot be applied, and why."""
Writing = Callable[[Sequence[Applicable]], list[Statement]]
"""Turns events into the statements that write them."""


class Tally(Struct, frozen=True):
    """How many messages of a batch were applied, and how many buried."""

    applied: int
    buried: Counter[Reason]
    not_kept: int = 0
    """How many of the buried ones, the same ones once, were only counted."""
    applied_types: Mapping[type[Event], int] = field(default_factory=dict)
    buried_types: Counter[str | None] = field(default_factory=Counter)
    """As they say themselves; None if that could not be read."""
    happened_at: Sequence[datetime] = ()
    """The times of what was applied."""


class Applier:
    """Applies batches to one database."""

    def __init__(self, engine: Engine, letters_per_hour: int = 0) -> None:
        """Keeps at most that many new letters of a source and hour; 0 is no bound."""
        self._engine = engine
        self._letters_per_hour = letters_per_hour
        self._floods = Floods(letters_per_hour)
        self._suspects = Suspects(engine)
        self._reporters = Reporters(engine)

    def check(self) -> None:
        """Runs every statement of an ordinary batch on no rows. Raises DatabaseUnavailable if one
        cannot run.

        Subscribing while the database cannot take anything would only send messages back and forth.
        """
        try:
            with self._engine.begin() as connection:
                connection.execute(LOCK_BRANCHES, {"branch_ids": []})
                connection.execute(APPLY_ATTEMPTS, {"attempts": "[]"})
                connection.execute(PROJECT_BRANCHES, {"branch_ids": []})
                connection.execute(INSERT_SCRIPT_ACTIVITY, {"runs": "[]"})
                connection.execute(RECORD, {"arrivals": "[]"})
                connection.execute(TRY_EACH, {"scripts": "[]", "trouble": []})
                for statement in (TRIED, NOTE, UNCOUNT, FORGET):
                    connection.execute(statement, {"digests": []})
        except DBAPIError as error:
            raise unavailable(error) from error

    def apply(
        self, messages: Sequence[Message], lock_timeout_seconds: float | None = None
    ) -> Tally:
        """Commits every message of the batch, as applied or as buried.

        Raises DBAPIError if the database is in trouble, or if something is locked for longer than
        that (by default, than the engine waits); then nothing of the batch is committed.
        """
        return self._commit(messages, lock_timeout_seconds=lock_timeout_seconds)

    def apply_suspects(
        self,
        bodies: Sequence[bytes],
        read: Callable[[], Sequence[Message]],
        lock_timeout_seconds: float | None = None,
    ) -> Tally:
        """Commits messages that were delivered before, which `read` decodes: they may end this
        process. One that is alone and did so in a few trials is buried unread.

        Raises DBAPIError as `apply` does, MustWait if `read` does, and MustBeAlone if one of
        several may have ended a process before; none of that counts as a trial.
        """
        ended = self._suspects.begin_trial(bodies)
        try:
            messages = read() if ended < MAX_TRIALS else [unread(bodies[0], {}, ended)]
            return self._commit(
                messages, lambda done: self._suspects.forget(done, bodies), lock_timeout_seconds
            )
        except (DBAPIError, MustWait):
            self._suspects.survived(bodies)
            raise

    def bury_large(self, message: LargeMessage) -> Tally:
        """Commits a message of which nothing is read, as buried. It is never a suspect: nothing in
        it could kill this process. From any thread. Raises DBAPIError; trying again may help."""
        with self._engine.begin() as connection:
            beyond = bury_large(connection, message, self._letters_per_hour)
        buried = Counter([Reason.TOO_LARGE])
        return Tally(0, buried, self._told(beyond), buried_types=Counter([None]))

    def abandon(self, *, is_waiting: bool) -> None:
        """Nobody waits any longer for what is being applied, which may still be waiting for the
        database. From any thread. Raises DBAPIError."""
        self._suspects.abandon(is_waiting=is_waiting)

    def locked_branches(self, branch_ids: Collection[int]) -> set[int]:
        """Those of the branches that another session has locked. Raises DBAPIError."""
        given = {"branch_ids": list(branch_ids)}
        with self._engine.connect() as connection:  # which lets go of its locks at the end
            free = connection.scalars(LOCK_FREE_BRANCHES, given).all()
            return set(connection.scalars(REGISTERED, given)).difference(free)

    def blockers(self, messages: Sequence[Message]) -> list[Blocker]:
        """The sessions that keep these messages from being applied. Raises DBAPIError."""

        def wait(connection: Connection) -> None:
            connection.execute(LIMIT_WAITING, {"limit": f"{4 * LOOK_SECONDS}s"})
            write_batch(connection, messages, arrivals_of(messages), {})

        return find_blockers(self._engine, wait)

    def _commit_few(
        self, messages: Sequence[Message], arrivals: Arrivals, source_ids: Mapping[str, int]
    ) -> bool:
        """Commits the batch in one round trip; or nothing if a message cannot be applied, or if
        something came late. Raises DBAPIError if the database is in trouble."""
        events = [
            (message, message.content)
            for message in messages
            if isinstance(message.content, Envelope)
        ]
        if len(events) < len(messages):
            return False
        branch_ids = array_of(branch_ids_of(messages))
        with autocommit(self._engine) as connection:
            try:
                at_once(
                    connection,
                    [
                        (LOCK_BRANCHES, {"branch_ids": branch_ids}),
                        *_noting(arrivals),
                        *_inserts(source_ids, events, APPLY_FEW),
                    ],
                )
            except DBAPIError as error:
                if forget_prepared(connection, error) or message_is_to_blame(error):
                    return False
                raise
        return True

    def _commit(
        self,
        messages: Sequence[Message],
        also: Callable[[Connection], None] | None = None,
        lock_timeout_seconds: float | None = None,
    ) -> Tally:
        arrivals = arrivals_of(messages)
        source_ids = self._reporters.numbers(arrivals.keys())
        is_ordinary = also is None and lock_timeout_seconds is None and len(messages) <= FEW
        if is_ordinary and self._commit_few(messages, arrivals, source_ids):
            return _tally(messages, [], 0)
        with self._engine.begin() as connection:
            if lock_timeout_seconds is not None:
                connection.execute(LIMIT_WAITING, {"limit": f"{lock_timeout_seconds}s"})
            dead = write_batch(connection, messages, arrivals, source_ids)
            beyond = bury(connection, dead, self._letters_per_hour)
            if also is not None:
                also(connection)
        return _tally(messages, dead, self._told(beyond))

    def _told(self, beyond: Sequence[Sent]) -> int:
        """How many there are, once they are told."""
        if beyond:
            self._floods.tell(beyond)
        return len(beyond)


def _tally(messages: Sequence[Message], dead: Sequence[Dead], not_kept: int) -> Tally:
    """This is done for every message: of some ways to count a few kinds, this is the fastest."""
    gone = {id(message) for message, _ in dead}
    applied: Sequence[Any] = (
        [each for each in messages if id(each) not in gone] if gone else messages
    )
    kinds = [type(each.content.event) for each in applied]
    return Tally(
        len(applied),
        Counter(rejection.reason for _, rejection in dead),
        not_kept,
        {kind: kinds.count(kind) for kind in EVENTS},
        Counter(rejection.type for _, rejection in dead),
        [each.content.time for each in applied],
    )


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
    noting = _noting(arrivals)
    if not _try(connection, [*noting, *_shortcut(source_ids, events)]):
        dead += _isolate(connection, source_ids, events)
        for statement in noting:
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


def _noting(arrivals: Arrivals) -> list[Statement]:
    return [(RECORD, {"arrivals": note_of(arrivals)})] if arrivals else []


def _shortcut(source_ids: Mapping[str, int], events: Sequence[Applicable]) -> list[Statement]:
    """Everything that the events do; the cost depends on what changes, not on what is there."""
    return [(CHECK_CONSTRAINTS, {}), *_inserts(source_ids, events, APPLY_ATTEMPTS)]


def _writes(source_ids: Mapping[str, int], events: Sequence[Applicable]) -> list[Statement]:
    """The same, step by step, so that each event can be tried alone."""
    return [*_inserts(source_ids, events), *_projections(events), (CHECK_CONSTRAINTS, {})]


def _inserts(
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
    dead = _try_pieces(connection, events, partial(_inserts, source_ids))
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
