"""Applying dead letters again, through the same code that applies live events.

A letter is marked in the transaction that applies it, so a kill at any moment can neither lose it
nor apply it twice. Rows are claimed with SKIP LOCKED, so that two operators share the work instead
of repeating it, and branches are locked before letters, as the worker does.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

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
from mirrorfeed.contract.wire import MAX_READABLE_BYTES, too_large

RATE_SECONDS = 0.25
"""With a rate limit, one transaction takes this many seconds' worth of letters."""
TRIES = 5

# Another operator may have claimed or resolved some since they were selected.
CLAIM = text("""
    SELECT id, octet_length(body) AS size_bytes, substr(body, 1, :read_bytes) AS body
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


class Progress(Struct, frozen=True):
    """What one transaction did, or with `dry_run` would have done."""

    outcomes: list[Outcome]
    skipped: int
    """Letters in another operator's hands, edited meanwhile, or no longer dead."""
    differences: list[Difference]
    """Branch rows before and after; only a dry run reports them."""


class Replay:
    """Applies planned letters, one transaction at a time; with `dry_run` each is rolled back."""

    def __init__(
        self,
        engine: Engine,
        planned: Sequence[Planned],
        *,
        dry_run: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._engine = engine
        self._planned = planned
        self._dry_run = dry_run
        self._limits = limits

    def run(self, stopping: threading.Event, *, rate: float | None = None) -> Iterator[Progress]:
        """Yields what each transaction did, until all letters are done or `stopping` is set.

        At most `rate` letters a second. Raises DBAPIError if the database stays in trouble;
        everything yielded before that is committed.
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
            # All of a branch's letters are tried from one state, so they go into one transaction.
            chunk: list[Planned] = []
            for _, letters in groupby(
                self._planned, key=lambda each: each.partition_key or each.id
            ):
                chunk += letters
                if len(chunk) >= CHUNK:
                    yield chunk
                    chunk = []
            if chunk:
                yield chunk
            return
        size = CHUNK if rate is None else max(1, min(CHUNK, int(rate * RATE_SECONDS)))
        yield from pieces(self._planned, _bytes_to_read, size)

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
        outcomes = [
            outcome
            for piece in pieces(chunk, _bytes_to_read)
            for outcome in self._apply_piece(connection, piece)
        ]
        after = mirror_states(connection, branch_ids) if self._dry_run else {}
        return Progress(outcomes, len(chunk) - len(outcomes), differences(before, after))

    def _apply_piece(self, connection: Connection, piece: Sequence[Planned]) -> list[Outcome]:
        """Without the letters that are skipped."""
        given = {"ids": [each.id for each in piece], "read_bytes": MAX_READABLE_BYTES}
        claimed = {row.id: row for row in connection.execute(CLAIM, given)}
        ids = [
            each.id
            for each in piece
            if each.id in claimed and each.is_still(bytes(claimed[each.id].body))
        ]
        messages = [self._read(claimed[each]) for each in ids]
        news = News(connection, messages)
        arrivals = arrivals_of(messages, as_published=False)
        source_ids = number_sources(connection, arrivals.keys())
        remaining = write_batch(connection, messages, arrivals, source_ids)
        dead = {id(message): rejection for message, rejection in remaining}
        outcomes = [
            _outcome(letter_id, dead.get(id(message), message.content), news)
            for letter_id, message in zip(ids, messages, strict=True)
        ]
        _mark(connection, outcomes)
        return outcomes

    def _read(self, letter: Row[Any]) -> Message:
        body = bytes(letter.body)
        if len(body) < letter.size_bytes:
            return Message(body, {}, Rejection(Reason.TOO_LARGE, too_large(letter.size_bytes)))
        return read_message(body, limits=self._limits)


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
