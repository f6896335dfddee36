"""Burying: keeping a message that cannot be applied, whole and with the reason.

It happens in the transaction that applies the rest of the batch. What a source sends beyond its
allowance is only counted (`allowance`).
"""

import math
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    LargeBinary,
    and_,
    case,
    cast,
    func,
    null,
    or_,
)
from sqlalchemy.dialects.postgresql import insert

from mirrorfeed.consumer.apply.allowance import Sent, count_beyond
from mirrorfeed.consumer.apply.message import MAX_DELIVERIES, Message, Rejection
from mirrorfeed.consumer.tables import DeadLetter

MAX_DETAIL_LENGTH = 2000
MAX_DEPTH = 32

message_digest: ColumnElement[bytes] = func.sha256(
    func.coalesce(DeadLetter.original_body, DeadLetter.body), type_=LargeBinary
)
"""Of the message as delivered: there is one letter for each."""
_is_resolved = or_(
    DeadLetter.state == "discarded",
    # The original message is a duplicate of the corrected one that was applied.
    and_(DeadLetter.state == "replayed", DeadLetter.original_body.is_not(None)),
)
_is_edited = DeadLetter.original_body.is_not(None)


def delivered_again(attempts: Any, reason: Any, detail: Any) -> dict[str, Any]:
    """What changes in a letter whose message was delivered so many more times, and could not be
    applied for this reason."""
    return {
        "attempts": func.least(cast(DeadLetter.attempts, BigInteger) + attempts, MAX_DELIVERIES),
        "reason": case((_is_edited, DeadLetter.reason), else_=reason),
        "detail": case((_is_edited, DeadLetter.detail), else_=detail),
        # A letter that was replayed, and can no longer be applied, is dead again.
        "state": case((_is_resolved, DeadLetter.state), else_="dead"),
        "resolved_at": case((_is_resolved, DeadLetter.resolved_at), else_=null()),
    }


_insert = insert(DeadLetter)
_new = _insert.excluded
_bury = _insert.on_conflict_do_update(
    index_elements=[message_digest], set_=delivered_again(_new.attempts, _new.reason, _new.detail)
)


def bury(
    connection: Connection,
    letters: Iterable[tuple[Message, Rejection]],
    letters_per_hour: int = 0,
) -> list[Sent]:
    """Keeps one row per distinct body, however often it came before or is in `letters`. Of each
    source no more than that; 0 is no bound. Returns what it only counted."""
    rows: dict[bytes, dict[str, Any]] = {}
    for message, rejection in letters:
        counted = rows[message.body]["attempts"] if message.body in rows else 0
        rows[message.body] = {
            "reason": rejection.reason,
            "detail": detail_of(rejection),
            "body": message.body,
            "headers": storable(message.headers),
            "source": rejection.source,
            "event_id": rejection.id,
            "type": rejection.type,
            "branch_id": rejection.branch_id,
            "attempts": min(counted + message.deliveries, MAX_DELIVERIES),
        }
    sent = {
        body: Sent(sha256(body).digest(), row["source"], row["reason"])
        for body, row in rows.items()
    }
    beyond = count_beyond(connection, list(sent.values()), letters_per_hour) if sent else []
    digests = {each.digest for each in beyond}
    kept = [body for body in rows if sent[body].digest not in digests]
    if kept:
        # Always in the same order, so that two workers burying the same messages cannot deadlock.
        connection.execute(_bury, [rows[body] for body in sorted(kept)])
    return beyond


def detail_of(rejection: Rejection) -> str:
    """The rejection's detail in a form that PostgreSQL can store."""
    return str(storable(rejection.detail))[:MAX_DETAIL_LENGTH]


def storable(value: Any, depth: int = 0) -> Any:
    """The value in a form that jsonb can store: no NUL, no bytes, no NaN, no bottomless nesting."""
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
