"""In which order dead letters are applied: by what they are about, and when that began."""

from datetime import UTC, datetime
from hashlib import sha256

from msgspec import Struct
from sqlalchemy import Connection, func, select

from mirrorfeed.consumer.dead_letters.store import BODIES_BYTES, LETTERS, Selection
from mirrorfeed.contract.wire import MAX_BODY_BYTES, position_of

LOOKED_AT_BYTES = MAX_BODY_BYTES + 1
"""A longer body stays dead, whatever follows."""
CHUNK = 100
"""Letters fetched at once, with so much of each."""
FIRST = datetime.min.replace(tzinfo=UTC)


class Planned(Struct, frozen=True, gc=False, order=True):
    """A letter waiting for its turn, ordered by what it is about and when that began."""

    partition_key: str
    started_at: datetime
    occurred_at: datetime
    id: int
    digest: bytes
    """Of the body, to notice if somebody edits the letter meanwhile."""
    size_bytes: int
    """Of the body, and of the original if it was edited."""
    branch_id: int | None = None

    def is_still(self, body: bytes) -> bool:
        """Whether the body is the one that was planned; no more than LOOKED_AT_BYTES count."""
        return _digest(body[:LOOKED_AT_BYTES]) == self.digest


def plan(connection: Connection, selection: Selection) -> list[Planned]:
    """The selected letters as they are now, in the order in which they will be applied."""
    query = (
        select(
            LETTERS.c.id,
            BODIES_BYTES,
            func.substr(LETTERS.c.body, 1, LOOKED_AT_BYTES),
        )
        .where(*selection.conditions())
        .order_by(LETTERS.c.id)
        .limit(selection.limit)
        .execution_options(yield_per=CHUNK)
    )
    found = connection.execute(query)
    return sorted(_planned(letter_id, size, bytes(body)) for letter_id, size, body in found)


def _planned(letter_id: int, size_bytes: int, body: bytes) -> Planned:
    position = position_of(body)
    if position is None:  # it stays dead whenever it is tried
        return Planned("", FIRST, FIRST, letter_id, _digest(body), size_bytes)
    return Planned(
        position.partition_key,
        position.started_at,
        position.time,
        letter_id,
        _digest(body),
        size_bytes,
        position.branch_id,
    )


def _digest(body: bytes) -> bytes:
    return sha256(body).digest()
