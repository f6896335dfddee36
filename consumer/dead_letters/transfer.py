"""Letters as objects of JSON, out of one database and into another."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from mirrorfeed.consumer.apply.burial import storable
from mirrorfeed.consumer.apply.large import keep_large
from mirrorfeed.consumer.apply.message import MAX_DELIVERIES
from mirrorfeed.consumer.dead_letters.store import LETTERS, Selection, find_whole
from mirrorfeed.consumer.errors import BadLetterFile
from mirrorfeed.contract.events import MAX_BRANCH_ID, check_text, normalise_instant
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.wire import MAX_READABLE_BYTES


class Exported(Struct, frozen=True, omit_defaults=True):
    """One letter as a line of JSON, in which `bytes` are base64."""

    reason: Reason
    detail: str
    body: bytes
    original_body: bytes | None = None
    headers: dict[str, Any] = {}
    source: str | None = None
    event_id: str | None = None
    type: str | None = None
    branch_id: Annotated[int, Meta(ge=1, le=MAX_BRANCH_ID)] | None = None
    first_seen_at: datetime | None = None
    attempts: Annotated[int, Meta(ge=1, le=MAX_DELIVERIES)] = 1
    note: str | None = None

    def __post_init__(self) -> None:
        for field in ("detail", "source", "event_id", "type", "note"):
            if getattr(self, field) is not None:
                check_text(field, getattr(self, field))
        if self.first_seen_at is not None:
            normalise_instant(self, "first_seen_at")


def exported(connection: Connection, selection: Selection) -> Iterator[dict[str, Any]]:
    """Each letter, complete, as an object of JSON. The reader may take its time."""
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    for row in find_whole(connection, selection):
        fields = {name: row._mapping[name] for name in Exported.__struct_fields__}
        for name in ("body", "original_body"):
            fields[name] = None if fields[name] is None else bytes(fields[name])
        fields["reason"] = Reason(fields["reason"])
        fields["first_seen_at"] = fields["first_seen_at"].astimezone(UTC)
        yield msgspec.to_builtins(Exported(**fields))


def import_lines(connection: Connection, lines: Iterable[bytes]) -> tuple[int, int]:
    """Adds exported letters as dead ones; returns how many were new and how many already there.

    Raises BadLetterFile, having added none, if a line is not a letter.
    """
    new = there = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        values = _read_line(number, line)
        # One at a time: a letter is short, and a file may contain one twice.
        if len(line) > MAX_READABLE_BYTES:
            is_new = keep_large(connection, values)
        else:
            statement = insert(LETTERS).values(values).on_conflict_do_nothing()
            is_new = connection.execute(statement.returning(LETTERS.c.id)).one_or_none() is not None
        new, there = (new + 1, there) if is_new else (new, there + 1)
    return new, there


def _read_line(number: int, line: bytes) -> Mapping[str, Any]:
    try:
        exported = msgspec.json.decode(line, type=Exported)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadLetterFile(
            f"line {number} is not a letter as mirror-replay export writes it ({error});"
            " nothing was imported"
        ) from error
    values = {**msgspec.structs.asdict(exported), "headers": storable(exported.headers)}
    return {name: value for name, value in values.items() if value is not None}
