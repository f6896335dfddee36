"""Messages so large that they cannot be events: buried in pieces, so that memory has them once.

As a parameter of a statement a body would be there several times over: as text in hexadecimal, in
the statement, and on its way to the server.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from struct import pack
from typing import Any

import psycopg2
from msgspec import Struct
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.allowance import Sent, count_beyond
from mirrorfeed.consumer.apply.burial import delivered_again, message_digest, storable
from mirrorfeed.consumer.tables import DeadLetter
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.wire import too_large

COPY = "COPY dead_letter ({columns}) FROM STDIN (FORMAT binary)"
HEADER = b"PGCOPY\n\xff\r\n\0" + pack(">ii", 0, 0)
"""Of PostgreSQL's binary format, as its documentation of COPY describes it: no flags."""
TRAILER = pack(">h", -1)
PART_BYTES = 64 * 1024
Y2K = datetime(2000, 1, 1, tzinfo=UTC)

ENCODINGS: Mapping[str, Callable[[Any], bytes]] = {
    "attempts": lambda value: pack(">i", value),
    "branch_id": lambda value: pack(">q", value),
    "first_seen_at": lambda value: pack(">q", (value - Y2K) // timedelta(microseconds=1)),
    "headers": lambda value: b"\x01" + json.dumps(value).encode(),
}
"""How the binary format has columns that are neither text nor bytes."""


class LargeMessage(Struct, frozen=True, gc=False):
    """A body in pieces, and the AMQP headers as they came."""

    pieces: Sequence[bytes]
    headers: Mapping[str, Any]
    deliveries: int = 1
    """How often it was delivered, this time included."""


def bury_large(
    connection: Connection, message: LargeMessage, letters_per_hour: int = 0
) -> list[Sent]:
    """Keeps it whole, or counts it if its letter is there. If there are so many letters this hour
    whose source could not be read, it only notes its digest, and returns it; 0 is no bound.

    Raises DBAPIError, also if somebody else buries the same body at this moment; trying again
    helps.
    """
    detail = too_large(sum(map(len, message.pieces)))
    digest = _digest(message.pieces)
    known = (
        update(DeadLetter)
        .where(message_digest == digest)
        .values(delivered_again(message.deliveries, Reason.TOO_LARGE, detail))
        .returning(DeadLetter.id)
    )
    if connection.execute(known).first() is not None:
        return []
    sent = [Sent(digest, None, Reason.TOO_LARGE)]
    beyond = count_beyond(connection, sent, letters_per_hour)
    if not beyond:
        fields = {
            "reason": Reason.TOO_LARGE,
            "detail": detail,
            "headers": storable(dict(message.headers)),
            "attempts": message.deliveries,
            "body": message.pieces,
        }
        _copy(connection, fields)
    return beyond


def keep_large(connection: Connection, fields: Mapping[str, Any]) -> bool:
    """Adds a letter that is large, and returns True, unless it is there. Raises DBAPIError."""
    digest = _digest([fields.get("original_body", fields["body"])])
    is_new = connection.execute(select(DeadLetter.id).where(message_digest == digest)).first()
    if is_new is None:
        _copy(connection, fields)
    return is_new is None


def _digest(pieces: Iterable[bytes]) -> bytes:
    digest = sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _copy(connection: Connection, fields: Mapping[str, Any]) -> None:
    statement = COPY.format(columns=", ".join(fields))
    encoded = [_encoded(name, value) for name, value in fields.items()]
    cursor: Any = connection.connection.cursor()
    try:
        cursor.copy_expert(statement, _Stream(_row(encoded)), PART_BYTES)
    except psycopg2.Error as error:
        raise DBAPIError(statement, None, error) from error
    finally:
        cursor.close()


def _encoded(name: str, value: Any) -> Sequence[bytes]:
    if name in ENCODINGS:
        return [ENCODINGS[name](value)]
    match value:
        case str():
            return [value.encode()]
        case bytes():
            return [value]
        case _:
            pieces: Sequence[bytes] = value
            return pieces


def _row(fields: Sequence[Sequence[bytes]]) -> Iterator[bytes]:
    yield HEADER
    yield pack(">h", len(fields))
    for pieces in fields:
        yield pack(">i", sum(map(len, pieces)))
        yield from pieces
    yield TRAILER


class _Stream:
    """The pieces as a file to read from, never joined."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)
