"""Carrying out an operation, step by step, so that it can be stopped, killed and gone on with."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Engine, text

from mirrorfeed.consumer.apply.message import DEFAULT_LIMITS, Limits
from mirrorfeed.consumer.dead_letters.plan import LOOKED_AT_BYTES, Planned, plan
from mirrorfeed.consumer.dead_letters.replay import Outcome, apply_letters, with_retries
from mirrorfeed.consumer.dead_letters.store import LetterState, Selection, pieces
from mirrorfeed.consumer.operations import store
from mirrorfeed.consumer.operations.store import PIECE, Kind, Noted, Operation, Piece, State

RATE_SECONDS = 0.25
"""With a rate limit, one transaction takes this many seconds' worth of letters."""
RENEW_SECONDS = 1.0
SKIPPED = "skipped"
STATES = {
    Kind.DISCARD: (LetterState.DISCARDED, LetterState.DEAD),
    Kind.RESTORE: (LetterState.DEAD, LetterState.DISCARDED),
}
"""In which state letters are afterwards, and before."""
DONE_WITH = {Kind.DISCARD: "discarded", Kind.RESTORE: "restored"}

# Only those that are as they were when they were previewed.
RESOLVE = text("""
    UPDATE dead_letter SET
        state = :after, note = coalesce(:note, note),
        resolved_at = CASE WHEN :after = 'discarded' THEN now() END
    FROM ROWS FROM (
        pg_catalog.unnest(CAST(:ids AS bigint[])), pg_catalog.unnest(CAST(:digests AS bytea[]))
    ) AS previewed (letter_id, digest)
    WHERE dead_letter.id = letter_id AND state = :before
        AND pg_catalog.sha256(pg_catalog.substr(body, 1, :looked_at)) = digest
    RETURNING dead_letter.id
""")


class Step(Struct, frozen=True):
    """What one transaction did."""

    letters: int
    """How many had their turn."""
    outcomes: Sequence[Outcome] = ()
    """Of those that were applied, or tried."""

    @property
    def skipped(self) -> int:
        """Letters in another operator's hands, edited meanwhile, or no longer as they were."""
        return self.letters - len(self.outcomes)


Work = Callable[[Connection], tuple[Step, Sequence[str], State]]
"""What is done in one transaction: that, what has become of the letters, and the state then."""


class Turn(Struct, frozen=True):
    """A letter whose turn it is."""

    id: int
    planned: Planned | None
    """None if it is not as it was when it was previewed, or has gone."""

    @property
    def size_bytes(self) -> int:
        return self.planned.size_bytes if self.planned else 0


def perform(
    engine: Engine,
    operation: Operation,
    runner: str,
    stopping: threading.Event,
    *,
    limits: Limits = DEFAULT_LIMITS,
    known: Mapping[int, Planned] = {},
) -> Iterator[Step]:
    """Carries out what `runner` holds, and yields what each transaction did, until it is done, is
    to wait for the operator, or `stopping` is set; then it can be gone on with. Letters in `known`
    need not be read to know what they are about.

    Raises OperationError if it was stopped or taken over meanwhile, and DBAPIError if the database
    stays in trouble; everything yielded before that is committed.
    """
    if operation.kind is Kind.APPLY:
        yield from _Applying(engine, operation, runner, limits, known).run(stopping)
    else:
        yield _resolve(engine, operation, runner)


def apply_planned(
    engine: Engine,
    planned: Sequence[Planned],
    actor: str,
    stopping: threading.Event,
    *,
    asked: Mapping[str, Any] = {},
    rate: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Step]:
    """Applies these letters as an operation that this process carries out: others see how far it
    is, and can stop it. If `stopping` is set, it stops.

    Raises OperationError if somebody else has stopped it, and DBAPIError if the database stays in
    trouble.
    """
    if not planned:
        return
    letters = [(each.id, each.digest) for each in planned]
    with engine.begin() as connection:
        operation_id = store.begin(
            connection,
            Kind.APPLY,
            asked,
            letters,
            actor,
            state=State.RUNNING,
            rate=rate,
            runner=actor,
        )
        operation = store.get(connection, operation_id)
    known = {each.id: each for each in planned}
    yield from perform(engine, operation, actor, stopping, limits=limits, known=known)
    if stopping.is_set():
        with engine.begin() as connection:
            store.stop(connection, operation_id)


class _Applying:
    """Letters applied one part after another."""

    def __init__(
        self,
        engine: Engine,
        operation: Operation,
        runner: str,
        limits: Limits,
        known: Mapping[int, Planned],
    ) -> None:
        self._engine = engine
        self._operation = operation
        self._runner = runner
        self._limits = limits
        self._known = known

    def run(self, stopping: threading.Event) -> Iterator[Step]:
        rate = self._operation.rate
        most = PIECE if rate is None else max(1, min(PIECE, int(rate * RATE_SECONDS)))
        is_first_alone = self._operation.first_alone and not self._operation.done
        began_at = time.monotonic()
        done = 0
        while (piece := self._next_piece()) is not None:
            turns = self._turns(piece)
            for part in pieces(turns, lambda each: each.size_bytes, 1 if is_first_alone else most):
                if rate is not None:
                    self._pace(stopping, began_at + done / rate)
                if stopping.is_set():
                    return
                yield self._apply(piece, part, is_first_alone)
                done += len(part)
                if is_first_alone:
                    return
        _commit(self._engine, self._operation, self._runner, lambda _: (Step(0), (), State.DONE))

    def _next_piece(self) -> Piece | None:
        with self._engine.begin() as connection:
            return store.next_piece(connection, self._operation.id)

    def _turns(self, piece: Piece) -> list[Turn]:
        unknown = tuple(letter_id for letter_id, _ in piece.letters if letter_id not in self._known)
        found: dict[int, Planned] = {}
        if unknown:
            with self._engine.begin() as connection:
                found = {each.id: each for each in plan(connection, Selection(ids=unknown))}
        turns = []
        for letter_id, digest in piece.letters:
            planned = self._known.get(letter_id) or found.get(letter_id)
            is_same = planned is not None and planned.digest == digest
            turns.append(Turn(letter_id, planned if is_same else None))
        return turns

    def _apply(self, piece: Piece, part: Sequence[Turn], is_first_alone: bool) -> Step:
        letters = [turn.planned for turn in part if turn.planned is not None]

        def apply(connection: Connection) -> tuple[Step, Sequence[str], State]:
            outcomes = apply_letters(connection, letters, limits=self._limits)
            told = {each.id: each.outcome for each in outcomes}
            in_order = [told.get(turn.id, SKIPPED) for turn in part]
            store.add_outcomes(connection, self._operation.id, piece, in_order)
            state = State.WAITING if is_first_alone else State.RUNNING
            return Step(len(part), outcomes), in_order, state

        return _commit(self._engine, self._operation, self._runner, apply)

    def _pace(self, stopping: threading.Event, due_at: float) -> None:
        """Waits until then, and meanwhile says that it has not gone. Raises OperationError."""
        while (seconds := due_at - time.monotonic()) > 0:
            if stopping.wait(min(seconds, RENEW_SECONDS)):
                return
            with self._engine.begin() as connection:
                store.hold(connection, self._operation.id, self._runner)


def _resolve(engine: Engine, operation: Operation, runner: str) -> Step:
    """Discards or restores letters, all of them in one transaction, so that they have one time."""
    after, before = STATES[operation.kind]

    def resolve(connection: Connection) -> tuple[Step, Sequence[str], State]:
        outcomes: list[str] = []
        while (piece := store.next_piece(connection, operation.id)) is not None:
            given = {
                "ids": [letter_id for letter_id, _ in piece.letters],
                "digests": [digest for _, digest in piece.letters],
                "before": before,
                "after": after,
                "note": operation.note,
                "looked_at": LOOKED_AT_BYTES,
            }
            resolved = set(connection.scalars(RESOLVE, given))
            done = DONE_WITH[operation.kind]
            in_order = [done if each in resolved else SKIPPED for each, _ in piece.letters]
            store.add_outcomes(connection, operation.id, piece, in_order)
            outcomes += in_order
        return Step(operation.letters), outcomes, State.DONE

    return _commit(engine, operation, runner, resolve)


def _commit(engine: Engine, operation: Operation, runner: str, work: Work) -> Step:
    """Does it in a transaction that says so, and tries again if the database was in trouble. If
    only the answer to the commit was lost, what it did stands: the letters are not dead any more,
    and their outcomes must not be there twice.

    Raises OperationError if somebody else has the operation, DBAPIError if the trouble lasts.
    """
    tried: list[tuple[Step, Noted]] = []

    def attempt() -> Step:
        with engine.begin() as connection:
            if tried and store.noted(connection, operation.id, runner) == tried[-1][1]:
                return tried[-1][0]
            result = store.hold(connection, operation.id, runner)
            step, outcomes, state = work(connection)
            noted = Noted(state, result + Counter(outcomes))
            store.note(connection, operation.id, noted.result, noted.state)
            tried.append((step, noted))
        return step

    return with_retries(attempt)
