"""Applying dead letters again, through the same code that applies live events.

A letter is marked in the transaction that applies it, so a kill at any moment can neither lose it
nor apply it twice. Rows are claimed with SKIP LOCKED, so that two operators share the work instead
of repeating it, and branches are locked before letters, as the worker does.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, ParamSpec, TypeVar

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import DBAPIError
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from mirrorfeed.consumer.apply.batch import write_batch
from mirrorfeed.consumer.apply.burial import detail_of
from mirrorfeed.consumer.apply.ledger import arrivals_of
from mirrorfeed.consumer.apply.message import (
    DEFAULT_LIMITS,
    Limits,
    Message,
    Rejection,
    read_message,
)
from mirrorfeed.consumer.apply.projection import lock_branches
from mirrorfeed.consumer.apply.reporters import number_sources
from mirrorfeed.consumer.branches.mirror_state import Difference, differences, mirror_states
from mirrorfeed.consumer.dead_letters.news import News
from mirrorfeed.consumer.dead_letters.plan import Planned
from mirrorfeed.consumer.dead_letters.store import CHUNK, pieces
from mirrorfeed.contract.events import Envelope
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.wire import MAX_BODY_BYTES, MAX_READABLE_BYTES, too_large

TRIES = 5

P = ParamSpec("P")
T = TypeVar("T")

# Another operator may have claimed or resolved some since they were selected.
CLAIM = text("""
    SELECT
        id, octet_length(body) AS size_bytes, substr(body, 1, :read_bytes) AS body,
        CASE WHEN octet_length(original_body) <= :body_bytes THEN original_body END AS original_body
    FROM dead_letter
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


class Outcome(Struct, frozen=True, gc=False):
    """What became of one letter: `applied`, `unchanged` (the database knew it) or still `dead`."""

    id: int
    outcome: str
    reason: Reason | None = None
    detail: str | None = None


class Trial(Struct, frozen=True):
    """What one transaction would have done."""

    outcomes: list[Outcome]
    skipped: int
    """Letters in another operator's hands, edited meanwhile, or no longer dead."""
    differences: list[Difference]
    """Branch rows before and after."""


def apply_letters(
    connection: Connection, letters: Sequence[Planned], *, limits: Limits = DEFAULT_LIMITS
) -> list[Outcome]:
    """Applies the letters in the caller's transaction, in this order, and says what became of each.
    Letters are missing from that if they are in another operator's hands, were edited since they
    were planned, or are no longer dead."""
    _lock_branches(connection, letters)
    return _apply_locked(connection, letters, limits)


def try_letters(
    engine: Engine,
    planned: Sequence[Planned],
    *,
    limits: Limits = DEFAULT_LIMITS,
    at_once: int = CHUNK,
) -> Iterator[Trial]:
    """What applying the letters would do, without doing it: transactions that are rolled back, of
    about `at_once` letters.

    Raises DBAPIError if the database stays in trouble.
    """
    for chunk in whole_branches(planned, at_once):
        yield with_retries(try_together, engine, chunk, limits)


def try_together(engine: Engine, letters: Sequence[Planned], limits: Limits) -> Trial:
    """The same in one transaction. Raises DBAPIError."""
    with engine.begin() as connection:
        branch_ids = _lock_branches(connection, letters)
        before = mirror_states(connection, branch_ids)
        outcomes = _apply_locked(connection, letters, limits)
        after = mirror_states(connection, branch_ids)
        connection.rollback()
    return Trial(outcomes, len(letters) - len(outcomes), differences(before, after))


def whole_branches(planned: Sequence[Planned], at_once: int) -> Iterator[list[Planned]]:
    """The letters in parts of at least `at_once`, all of a branch in one: they are tried from one
    state."""
    chunk: list[Planned] = []
    for _, letters in groupby(planned, key=lambda each: each.partition_key or each.id):
        chunk += letters
        if len(chunk) >= at_once:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def with_retries(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a transaction gives, tried again if the database was in trouble, as by a deadlock.
    Raises DBAPIError if it stays so."""
    retry = Retrying(
        retry=retry_if_exception_type(DBAPIError),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        stop=stop_after_attempt(TRIES),
        reraise=True,
    )
    return retry(step, *args, **kwargs)


def _lock_branches(connection: Connection, letters: Sequence[Planned]) -> set[int]:
    """Returns the branches that the letters are about."""
    branch_ids = {each.branch_id for each in letters if each.branch_id is not None}
    lock_branches(connection, branch_ids)
    return branch_ids


def _apply_locked(
    connection: Connection, letters: Sequence[Planned], limits: Limits
) -> list[Outcome]:
    return [
        outcome
        for piece in pieces(letters, _bytes_to_read)
        for outcome in _apply_piece(connection, piece, limits)
    ]


def _apply_piece(connection: Connection, piece: Sequence[Planned], limits: Limits) -> list[Outcome]:
    given = {
        "ids": [each.id for each in piece],
        "read_bytes": MAX_READABLE_BYTES,
        "body_bytes": MAX_BODY_BYTES,
    }
    claimed = {row.id: row for row in connection.execute(CLAIM, given)}
    ids = [
        each.id
        for each in piece
        if each.id in claimed and each.is_still(bytes(claimed[each.id].body))
    ]
    messages = [_read(claimed[each], limits) for each in ids]
    news = News(connection, messages)
    arrived = [
        _as_delivered(claimed[letter_id], message, limits)
        for letter_id, message in zip(ids, messages, strict=True)
    ]
    arrivals = arrivals_of(arrived, as_published=False)
    sources = {each.content.source for each in messages if each.content.source is not None}
    source_ids = number_sources(connection, sources)
    remaining = write_batch(connection, messages, arrivals, source_ids)
    dead = {id(message): rejection for message, rejection in remaining}
    outcomes = [
        _outcome(letter_id, dead.get(id(message), message.content), news)
        for letter_id, message in zip(ids, messages, strict=True)
    ]
    _mark(connection, outcomes)
    return outcomes


def _read(letter: Row[Any], limits: Limits) -> Message:
    body = bytes(letter.body)
    if len(body) < letter.size_bytes:
        return Message(body, {}, Rejection(Reason.TOO_LARGE, too_large(letter.size_bytes)))
    return read_message(body, limits=limits)


def _as_delivered(letter: Row[Any], message: Message, limits: Limits) -> Message:
    """What the letter's arrival is noted by. An edit changes what is applied, not what has arrived:
    the edited body's number only counts if none can be read in the original."""
    if letter.original_body is None:
        return message
    original = read_message(bytes(letter.original_body), limits=limits)
    return message if original.content.sequence is None else original


def _bytes_to_read(letter: Planned) -> int:
    return min(letter.size_bytes, MAX_READABLE_BYTES)


def _outcome(letter_id: int, fate: Envelope | Rejection, news: News) -> Outcome:
    if isinstance(fate, Rejection):
        return Outcome(letter_id, "dead", fate.reason, detail_of(fate))
    return Outcome(letter_id, "applied" if news.learn(fate) else "unchanged")


def _mark(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    replayed = [each.id for each in outcomes if each.outcome != "dead"]
    dead = [each for each in outcomes if each.outcome == "dead"]
    if replayed:
        connection.execute(MARK_REPLAYED, {"ids": replayed})
    if dead:
        connection.execute(MARK_DEAD, {"letters": msgspec.json.encode(dead).decode()})
