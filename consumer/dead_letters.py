"""Burying: a message that cannot be applied is kept whole, with why, in the same transaction."""

import math
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, case, func, null
from sqlalchemy.dialects.postgresql import insert

from consumer.messages import Message, Rejection
from consumer.tables import DeadLetter

MAX_DETAIL_LENGTH = 2000
MAX_DEPTH = 32

_insert = insert(DeadLetter)
_bury = _insert.on_conflict_do_update(
    index_elements=[func.sha256(DeadLetter.body)],
    set_={
        "attempts": DeadLetter.attempts + _insert.excluded.attempts,
        "reason": _insert.excluded.reason,
        "detail": _insert.excluded.detail,
        # What an operator discarded stays so; what was replayed before is dead again.
        "state": case((DeadLetter.state == "discarded", "discarded"), else_="dead"),
        "resolved_at": case(
            (DeadLetter.state == "discarded", DeadLetter.resolved_at), else_=null()
        ),
    },
)


def bury(connection: Connection, letters: Iterable[tuple[Message, Rejection]]) -> None:
    """One row a distinct body, however often it was delivered before or within `letters`."""
    rows: dict[bytes, dict[str, Any]] = {}
    for message, rejection in letters:
        attempts = rows[message.body]["attempts"] + 1 if message.body in rows else 1
        rows[message.body] = {
            "reason": rejection.reason,
            "detail": storable(rejection.detail)[:MAX_DETAIL_LENGTH],
            "body": message.body,
            "headers": storable(message.headers),
            "source": rejection.source,
            "event_id": rejection.event_id,
            "type": rejection.type,
            "branch_id": rejection.branch_id,
            "attempts": attempts,
        }
    if rows:
        # In one order everywhere, so that two workers burying the same cannot deadlock.
        connection.execute(_bury, [rows[body] for body in sorted(rows)])


def storable(value: Any, depth: int = 0) -> Any:
    """The value as jsonb can hold it: no NUL, no bytes, no numbers that are none, no abyss."""
    match value:
        case str():
            return value.replace("\0", "\ufffd").encode(errors="replace").decode()
        case bytes():
            return storable(value.decode(errors="replace"))
        case dict() | list() if depth == MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH}"
        case dict():
            return {storable(name): storable(item, depth + 1) for name, item in value.items()}
        case list():
            return [storable(item, depth + 1) for item in value]
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float():
            return value
        case _:
            return storable(str(value))
