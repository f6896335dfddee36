"""Commits batches, one transaction each. Knows no AMQP."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, get_args

import msgspec
from msgspec import Struct, field
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.allowance import Floods, Sent
from mirrorfeed.consumer.apply.batch import TRY_EACH, Dead, inserts, noting, write_batch
from mirrorfeed.consumer.apply.blockers import LOOK_SECONDS, Blocker, find_blockers
from mirrorfeed.consumer.apply.burial import bury
from mirrorfeed.consumer.apply.large import LargeMessage, bury_large
from mirrorfeed.consumer.apply.ledger import RECORD, Arrivals, arrivals_of
from mirrorfeed.consumer.apply.message import Message, attempts_of, branch_ids_of
from mirrorfeed.consumer.apply.projection import (
    APPLY_ATTEMPTS,
    APPLY_FEW,
    LOCK_BRANCHES,
    LOCK_FREE_BRANCHES,
    LOCKED_ATTEMPTS,
    PROJECT_BRANCHES,
    REGISTERED,
)
from mirrorfeed.consumer.apply.reporters import remembered_numbers
from mirrorfeed.consumer.apply.statements import (
    INSERT_SCRIPT_ACTIVITY,
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
from mirrorfeed.consumer.database import array_of, autocommit, message_is_to_blame, unavailable
from mirrorfeed.contract.events import Envelope, Event
from mirrorfeed.contract.reasons import Reason

LIMIT_WAITING = text("SELECT set_config('lock_timeout', :limit, true)")

EVENTS: tuple[type[Event], ...] = get_args(Event)
FEW = 16
"""Messages that are first tried in one round trip, as if none of them were refused. To wait for
each answer costs a batch of a few as much as all the rest; a larger one would be tried in vain too
often."""


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

    def locked_branches(self, messages: Sequence[Message]) -> set[int]:
        """The branches that these messages are about, as far as another session has locked the
        branch or one of the messages' attempts. Raises DBAPIError."""
        given = {"branch_ids": array_of(branch_ids_of(messages))}
        attempts = [
            {"branch_id": branch_id, "started_at": started_at}
            for branch_id, started_at in attempts_of(messages)
        ]
        document = msgspec.json.encode(attempts).decode()
        with self._engine.connect() as connection:  # which lets go of its locks at the end
            free = connection.scalars(LOCK_FREE_BRANCHES, given).all()
            locked = set(connection.scalars(REGISTERED, given)).difference(free)
            return locked.union(connection.scalars(LOCKED_ATTEMPTS, {"attempts": document}))

    def blockers(self, messages: Sequence[Message]) -> list[Blocker]:
        """The sessions that keep these messages from being applied. Raises DBAPIError."""

        def wait(connection: Connection) -> None:
            connection.execute(LIMIT_WAITING, {"limit": f"{4 * LOOK_SECONDS}s"})
            write_batch(connection, messages, arrivals_of(messages), {})

        return find_blockers(self._engine, wait)

    def _commit_few(self, messages: Sequence[Message], arrivals: Arrivals) -> bool:
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
            source_ids = remembered_numbers(connection, arrivals.keys())
            try:
                at_once(
                    connection,
                    [
                        (LOCK_BRANCHES, {"branch_ids": branch_ids}),
                        *noting(arrivals),
                        *inserts(source_ids, events, APPLY_FEW),
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
        is_ordinary = also is None and lock_timeout_seconds is None and len(messages) <= FEW
        if is_ordinary and self._commit_few(messages, arrivals):
            return _tally(messages, [], 0)
        with self._engine.connect() as connection:
            source_ids = remembered_numbers(connection, arrivals.keys())
            with connection.begin():
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
