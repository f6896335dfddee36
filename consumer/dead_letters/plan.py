"""In which order dead letters are applied: by what they are about, and when that began."""

from datetime import UTC, datetime
from hashlib import sha256

from msgspec import Struct
from sqlalchemy import Connection, func, select

from mirrorfeed.consumer.dead_letters.store import CHUNK, LETTERS, Selection
from mirrorfeed.contract.wire import MAX_BODY_BYTES, position_of

LOOKED_AT_BYTES = MAX_BODY_BYTES + 1
"""A longer body stays dead, whatever follows."""
FIRST = datetime.min.replace(tzinfo=UTC)


class Planned(Struct, frozen=True, gc=False, order=True):
    """A letter waiting for its turn, ordered by what it is about and when that began."""

    partition_key: str
    started_at: datetime
    occurred_at: datetime
    id: int
    digest: bytes
    """Of the body, to notice if somebody edits the letter meanwhile."""
    branch_id: int | None = None

    def is_still(self, body: bytes | None) -> bool:
        """Whether the claimed body is the one that was planned; None if it could not be claimed."""
        return body is not None and _digest(body[:LOOKED_AT_BYTES]) == self.digest


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
    if position is None:  # it stays dead whenever it is tried
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
