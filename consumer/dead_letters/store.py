"""The operator's side of `dead_letter`: finding, discarding and restoring letters."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from msgspec import Struct
from sqlalchemy import (
    ColumnElement,
    Connection,
    Label,
    Row,
    Select,
    Table,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from mirrorfeed.consumer.errors import LetterError
from mirrorfeed.consumer.tables import DeadLetter
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.wire import MAX_BODY_BYTES, position_of

LETTERS: Table = DeadLetter.metadata.tables["dead_letter"]
WITHOUT_MESSAGE = [
    column for column in LETTERS.columns if column.name not in ("body", "original_body", "headers")
]
BODIES_BYTES = func.octet_length(LETTERS.c.body) + func.coalesce(
    func.octet_length(LETTERS.c.original_body), 0
)
SPOOL_HOST = "^/pullers/([^/]+)/"
"""As the column source.hostname has it."""
CHUNK = 1000
LATE_LETTERS = 200
PIECE_BYTES = 4 * 1024 * 1024
"""A message is in memory several times over while it comes from the database, or becomes SQL."""

T = TypeVar("T")


class LetterState(StrEnum):
    """What has become of a letter."""

    DEAD = "dead"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class GroupBy(StrEnum):
    """By what letters are counted."""

    REASON = "reason"
    HOST = "host"
    BRANCH = "branch"


class Selection(Struct, frozen=True):
    """Which letters: those that meet every given criterion, the first `limit` of them by id."""

    ids: tuple[int, ...] = ()
    source: str | None = None
    reason: Reason | None = None
    type: str | None = None
    branch_id: int | None = None
    host: str | None = None
    """Of the spool that the letter's event came from."""
    like_id: int | None = None
    """A letter of the same reason and error, as `group` has them."""
    since: datetime | None = None
    """The earliest time that the letter may have been first seen."""
    state: LetterState = LetterState.DEAD
    discarded_at: datetime | None = None
    """When one `discard` took them off the list."""
    limit: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        criteria = {
            LETTERS.c.source: self.source,
            LETTERS.c.reason: self.reason,
            LETTERS.c.type: self.type,
            LETTERS.c.branch_id: self.branch_id,
            LETTERS.c.state: self.state,
            LETTERS.c.resolved_at: self.discarded_at,
        }
        conditions = [column == value for column, value in criteria.items() if value is not None]
        if self.host is not None:
            conditions.append(_host(LETTERS.c.source) == self.host)
        if self.like_id is not None:
            like = LETTERS.alias("like")
            for of in (lambda table: table.c.reason, lambda table: _error(table.c.detail)):
                wanted = select(of(like)).where(like.c.id == self.like_id).scalar_subquery()
                conditions.append(of(LETTERS) == wanted)
        if self.ids:
            conditions.append(LETTERS.c.id.in_(self.ids))
        if self.since is not None:
            conditions.append(LETTERS.c.first_seen_at >= self.since)
        return conditions


def count(connection: Connection, selection: Selection) -> int:
    """How many letters match, ignoring the limit."""
    query = select(func.count()).select_from(LETTERS).where(*selection.conditions())
    return connection.scalar(query) or 0


def find(connection: Connection, selection: Selection) -> Iterator[Row[Any]]:
    """The letters by id, without their messages, read as they are needed."""
    yield from _stream(connection, selection, *WITHOUT_MESSAGE)


def latest(
    connection: Connection, selection: Selection, *, before_id: int | None = None
) -> list[Row[Any]]:
    """The letters without their messages, the latest first: the first `limit` of them, or of those
    below `before_id`."""
    query = select(*WITHOUT_MESSAGE).where(*selection.conditions())
    if before_id is not None:
        query = query.where(LETTERS.c.id < before_id)
    return list(connection.execute(query.order_by(LETTERS.c.id.desc()).limit(selection.limit)))


def of_branch(
    connection: Connection, branch_id: int, limit: int
) -> dict[LetterState, tuple[int, list[Row[Any]]]]:
    """How many letters of each state a branch has, and the latest of them without their messages.

    One pass over the letters, which have no index by branch.
    """
    ids = func.array_agg(aggregate_order_by(LETTERS.c.id, LETTERS.c.id.desc()))
    query = (
        select(LETTERS.c.state, func.count().label("letters"), ids.label("ids"))
        .where(LETTERS.c.branch_id == branch_id)
        .group_by(LETTERS.c.state)
    )
    counted = {LetterState(row.state): row for row in connection.execute(query)}
    return {
        state: (
            row.letters,
            latest(connection, Selection(ids=tuple(row.ids[:limit]), state=state)),
        )
        for state in LetterState
        if (row := counted.get(state)) is not None
    }


def late_letters(connection: Connection, branch_id: int) -> dict[datetime, dict[str, Any]]:
    """What was told of a branch's attempts by letters that were applied later, the latest
    LATE_LETTERS of these: by the attempt's start, the letter's `id` and `resolved_at`."""
    query = (
        select(LETTERS.c.id, LETTERS.c.resolved_at, LETTERS.c.body)
        .where(*Selection(branch_id=branch_id, state=LetterState.REPLAYED).conditions())
        .where(func.octet_length(LETTERS.c.body) <= MAX_BODY_BYTES)
        .order_by(LETTERS.c.id.desc())
        .limit(LATE_LETTERS)
    )
    placed = [(row, position_of(bytes(row.body))) for row in connection.execute(query)]
    return {
        position.started_at: {"id": row.id, "resolved_at": row.resolved_at}
        for row, position in reversed(placed)
        if position is not None
    }


def find_whole(connection: Connection, selection: Selection) -> Iterator[Row[Any]]:
    """The letters by id, with their messages: no more of them in memory than PIECE_BYTES, or
    one."""
    sizes = _stream(connection, selection, LETTERS.c.id, BODIES_BYTES.label("size_bytes"))
    for piece in pieces(sizes, lambda row: row.size_bytes):
        chosen = select(LETTERS).where(LETTERS.c.id.in_([row.id for row in piece]))
        yield from connection.execute(chosen.order_by(LETTERS.c.id))


def pieces(
    letters: Iterable[T], size_bytes: Callable[[T], int], at_most: int = CHUNK
) -> Iterator[list[T]]:
    """The letters in pieces of at most so many letters and PIECE_BYTES, but at least one letter."""
    piece: list[T] = []
    piece_bytes = 0
    for letter in letters:
        letter_bytes = size_bytes(letter)
        if piece and (len(piece) == at_most or piece_bytes + letter_bytes > PIECE_BYTES):
            yield piece
            piece, piece_bytes = [], 0
        piece.append(letter)
        piece_bytes += letter_bytes
    if piece:
        yield piece


def _stream(
    connection: Connection, selection: Selection, *columns: ColumnElement[Any]
) -> Iterator[Row[Any]]:
    query = (
        select(*columns)
        .where(*selection.conditions())
        .order_by(LETTERS.c.id)
        .limit(selection.limit)
        .execution_options(yield_per=CHUNK)
    )
    yield from connection.execute(query)


def group(
    connection: Connection, selection: Selection, by: GroupBy | None = None
) -> list[Row[Any]]:
    """The letters counted by that, or else by reason and error, the most frequent first."""
    names = ("id", "reason", "first_seen_at", "detail", "source", "branch_id")
    chosen = (
        select(*(LETTERS.c[name] for name in names))
        .where(*selection.conditions())
        .order_by(LETTERS.c.id)
        .limit(selection.limit)
        .subquery()
    )
    keys = _keys(dict(chosen.c.items()), by)
    letters = func.count().label("letters")
    first_id = func.min(chosen.c.id).label("first_id")
    query = (
        select(
            *keys,
            letters,
            func.min(chosen.c.first_seen_at).label("oldest"),
            func.max(chosen.c.first_seen_at).label("newest"),
            first_id,
        )
        .group_by(*keys)
        .order_by(letters.desc(), first_id)
    )
    return list(connection.execute(query))


def _keys(letter: Mapping[str, ColumnElement[Any]], by: GroupBy | None) -> list[Label[Any]]:
    match by:
        case GroupBy.REASON:
            return [letter["reason"].label("reason")]
        case GroupBy.HOST:
            return [_host(letter["source"]).label("host")]
        case GroupBy.BRANCH:
            return [letter["branch_id"].label("branch")]
        case None:
            return [letter["reason"].label("reason"), _error(letter["detail"]).label("error")]


def _host(source: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.substring(source, SPOOL_HOST)


def _error(detail: ColumnElement[Any]) -> ColumnElement[Any]:
    """Letters with the same error mostly differ in a number."""
    return func.regexp_replace(detail, r"\d+", "#", "g")


def get(connection: Connection, letter_id: int, *, first_bytes: int | None = None) -> Row[Any]:
    """The letter, in any state; of its bodies only this much, if that is given. `body_bytes` and
    `original_body_bytes` are how large they are. Raises LetterError if there is none."""
    columns: list[ColumnElement[Any]] = []
    for column in LETTERS.columns:
        if column.name not in ("body", "original_body"):
            columns.append(column)
            continue
        shown = column if first_bytes is None else func.substr(column, 1, first_bytes)
        columns.append(shown.label(column.name))
        columns.append(func.octet_length(column).label(f"{column.name}_bytes"))
    query: Select[Any] = select(*columns).where(LETTERS.c.id == letter_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise LetterError(f"there is no letter {letter_id}: mirror-replay list shows the letters")
    return row


def check_ids(connection: Connection, ids: Iterable[int], *states: LetterState) -> None:
    """Raises LetterError naming the letters that are in none of the states."""
    wanted = set(ids)
    query = select(LETTERS.c.id, LETTERS.c.state).where(LETTERS.c.id.in_(wanted))
    found = {row.id: row.state for row in connection.execute(query)}
    wrong = [
        f"letter {letter_id} is {found[letter_id]}"
        if letter_id in found
        else f"there is no letter {letter_id}"
        for letter_id in sorted(wanted)
        if found.get(letter_id) not in states
    ]
    if wrong:
        raise LetterError(f"{', '.join(wrong)}; nothing was changed")


def discard(connection: Connection, selection: Selection, note: str) -> list[int]:
    """Takes letters off the list because they do not matter; `note` says why. Returns their ids.

    Raises LetterError, having changed nothing, if one of the ids given is not a dead letter's.
    """
    ids = _lock_selected(connection, selection)
    _update(connection, ids, state=LetterState.DISCARDED, resolved_at=func.now(), note=note)
    return ids


def restore(connection: Connection, selection: Selection) -> list[int]:
    """Undoes `discard`; the note stays. Returns their ids. Raises LetterError if one of the ids
    given is not a discarded letter's."""
    ids = _lock_selected(connection, selection)
    _update(connection, ids, state=LetterState.DEAD, resolved_at=None)
    return ids


def _lock_selected(connection: Connection, selection: Selection) -> list[int]:
    if selection.ids:
        lock(connection, selection.ids, selection.state)
    query = (
        select(LETTERS.c.id)
        .where(*selection.conditions())
        .order_by(LETTERS.c.id)
        .limit(selection.limit)
        .with_for_update()
    )
    return list(connection.scalars(query))


def lock(connection: Connection, ids: Sequence[int], state: LetterState) -> None:
    """Keeps others off these letters. Raises LetterError if one is not in this state."""
    query = select(LETTERS.c.id).where(LETTERS.c.id.in_(ids)).order_by(LETTERS.c.id)
    connection.execute(query.with_for_update())
    check_ids(connection, ids, state)


def _update(connection: Connection, ids: Sequence[int], **values: object) -> None:
    for begin in range(0, len(ids), CHUNK):
        chunk = ids[begin : begin + CHUNK]
        connection.execute(update(LETTERS).where(LETTERS.c.id.in_(chunk)).values(**values))
