"""Messages so large that they cannot be events: buried in pieces, so that memory has them once.

As a parameter of a statement a body would be there several times over: as text in hexadecimal, in
the statement, and on its way to the server.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from struct import pack
from typing import Any

import psycopg2
from msgspec import Struct
from sqlalchemy import Connection, update
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.burial import delivered_again, message_digest, storable
from mirrorfeed.consumer.tables import DeadLetter
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.wire import too_large

COPY = "COPY dead_letter (reason, detail, headers, attempts, body) FROM STDIN (FORMAT binary)"
HEADER = b"PGCOPY\n\xff\r\n\0" + pack(">ii", 0, 0)
"""Of PostgreSQL's binary format, as its documentation of COPY describes it: no flags."""
TRAILER = pack(">h", -1)
JSONB_VERSION = b"\x01"
PART_BYTES = 64 * 1024


class LargeMessage(Struct, frozen=True, gc=False):
    """A body in pieces, and the AMQP headers as they came."""

    pieces: Sequence[bytes]
    headers: Mapping[str, Any]
    deliveries: int = 1
    """How often it was delivered, this time included."""

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.pieces))


def bury_large(connection: Connection, message: LargeMessage) -> None:
    """Keeps it whole, or counts it if its letter is there. Raises DBAPIError, also if somebody else
    buries the same body at this moment; trying again helps."""
    detail = too_large(message.size_bytes)
    digest = sha256()
    for piece in message.pieces:
        digest.update(piece)
    known = (
        update(DeadLetter)
        .where(message_digest == digest.digest())
        .values(delivered_again(message.deliveries, Reason.TOO_LARGE, detail))
        .returning(DeadLetter.id)
    )
    if connection.execute(known).first() is None:
        fields = (
            [Reason.TOO_LARGE.encode()],
            [detail.encode()],
            [JSONB_VERSION, json.dumps(storable(dict(message.headers))).encode()],
            [pack(">i", message.deliveries)],
            message.pieces,
        )
        _copy(connection, _Stream(_row(fields)))


def _copy(connection: Connection, stream: "_Stream") -> None:
    cursor: Any = connection.connection.cursor()
    try:
        cursor.copy_expert(COPY, stream, PART_BYTES)
    except psycopg2.Error as error:
        raise DBAPIError(COPY, None, error) from error
    finally:
        cursor.close()


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
