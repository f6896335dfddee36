"""Bytes <-> Envelope: CloudEvents 1.0 in structured JSON mode.

Rules from outside: the CloudEvents specification 1.0.2 and its JSON format (attribute names, the
meaning of a missing `datacontenttype`), RFC 3339 (timestamps) and RFC 8259 (JSON, always UTF-8).
"""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import Meta, Struct

from mirrorfeed.contract.events import (
    MAX_BRANCH_ID,
    MAX_SEQUENCE,
    Envelope,
    InvalidEvent,
    MirrorCompleted,
    MirrorFailed,
    MirrorStarted,
    ScriptRun,
    SpoolHeartbeat,
    has_lone_surrogate,
    shown,
)
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.tracing import Trace

CONTENT_TYPE = "application/cloudevents+json"
MAX_BODY_BYTES = 64 * 1024
MAX_READABLE_BYTES = 1024 * 1024
"""A larger body cannot be an event; nothing in it is read."""
MAX_DIGITS = 100
SEQUENCE_DIGITS = 20
TYPES = tuple(
    event.TYPE
    for event in (MirrorStarted, MirrorCompleted, MirrorFailed, ScriptRun, SpoolHeartbeat)
)


class DecodeError(Exception):
    """A body is not an event of the contract.

    `reason` is the dead-letter code and `detail` tells a person what is wrong. `source`,
    `sequence`, `event_id`, `type` and `branch_id` are what could still be read, to help find it.
    """

    def __init__(self, reason: Reason, detail: str, attributes: dict[str, Any] | None = None):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        attributes = attributes or {}
        self.source = _storable_text(attributes.get("source"))
        self.sequence = _storable_sequence(attributes.get("sequence"))
        self.event_id = _storable_text(attributes.get("id"))
        self.type = _storable_text(attributes.get("type"))
        data = attributes.get("data")
        self.branch_id = _storable_id(data.get("branch_id")) if isinstance(data, dict) else None


def encode(envelope: Envelope, trace: Trace | None = None) -> bytes:
    """The event as a CloudEvents JSON document, which says what trace it is part of. Raises
    InvalidEvent if it exceeds 64 KiB."""
    event = envelope.event
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": envelope.id,
        "source": envelope.source,
        "type": event.TYPE,
        "subject": event.subject,
        "partitionkey": envelope.partition_key,
        "time": timestamp(envelope.time),
        "datacontenttype": "application/json",
        "data": {
            name: timestamp(value) if isinstance(value, datetime) else value
            for name, value in msgspec.structs.asdict(event).items()
        },
    }
    if envelope.sequence is not None:
        attributes["sequence"] = f"{envelope.sequence:0{SEQUENCE_DIGITS}}"
    if trace is not None:
        attributes["traceparent"] = trace.parent
        if trace.state is not None:
            attributes["tracestate"] = trace.state
    body = msgspec.json.encode(attributes)
    if len(body) > MAX_BODY_BYTES:
        raise InvalidEvent(f"the event is {len(body)} bytes; at most {MAX_BODY_BYTES} can be sent")
    return body


def timestamp(instant: datetime) -> str:
    """RFC 3339 in UTC with microseconds, such as `2007-07-05T19:32:01.000000Z`."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def decode(body: bytes) -> Envelope:
    """The event in a message body. Raises DecodeError with the first reason that fits."""
    if len(body) > MAX_BODY_BYTES:
        raise DecodeError(Reason.TOO_LARGE, too_large(len(body)), _readable_attributes(body))
    try:
        if not body.isascii():
            body.decode()  # msgspec does not check the values of fields it ignores
        cloud_event: _CloudEvent = _decoder.decode(body)
        return cloud_event.envelope()
    except (ValueError, RecursionError) as error:
        _explain(body, error)


def too_large(size_bytes: int) -> str:
    """What is wrong with a body of more than 64 KiB, for a person."""
    return f"the body is {size_bytes} bytes; at most {MAX_BODY_BYTES} are allowed"


class Position(Struct, frozen=True, gc=False):
    """An event's place among others: what it is about, when that began, when it happened."""

    partition_key: str
    started_at: datetime
    time: datetime
    branch_id: int | None
    """None if it is about none."""


def position_of(body: bytes) -> Position | None:
    """The position of the event in a body, or None if it cannot be read.

    Far quicker than `decode`, because no rule is checked: every event has a position, but not
    everything with a position is an event.
    """
    try:
        placed: _Placed = _place_decoder.decode(body)
    except (ValueError, RecursionError):
        return None
    data = placed.data
    return Position(placed.partitionkey, data.started_at, placed.time, data.branch_id)


_Instant = Annotated[datetime, Meta(tz=True)]


class _PlacedData(Struct, frozen=True, gc=False):
    started_at: _Instant
    branch_id: Annotated[int, Meta(ge=1, le=MAX_BRANCH_ID)] | None = None


class _Placed(Struct, frozen=True, gc=False):
    partitionkey: str
    time: _Instant
    data: _PlacedData


_place_decoder = msgspec.json.Decoder(_Placed)


class _CloudEvent(Struct, frozen=True, gc=False, kw_only=True, tag_field="type"):
    specversion: Literal["1.0"]
    id: str
    source: str
    subject: str
    partitionkey: str
    time: datetime
    datacontenttype: Literal["application/json"] = "application/json"
    sequence: str | None = None
    data: Any

    def envelope(self) -> Envelope:
        event = self.data
        if self.subject != event.subject:
            raise InvalidEvent(
                f"subject must be {shown(event.subject)} as in data, got {shown(self.subject)}"
            )
        partition_key = self._partition_key()
        if self.partitionkey != partition_key:
            raise InvalidEvent(
                f"partitionkey must be {shown(partition_key)}, got {shown(self.partitionkey)}"
            )
        sequence = None if self.sequence is None else _number_of(self.sequence)
        return Envelope(self.id, self.source, self.time, event, sequence)

    def _partition_key(self) -> str:
        key: str = self.data.partition_key
        return key


def _number_of(sequence: str) -> int:
    """A pattern for msgspec would be as slow as all the rest of its work."""
    if len(sequence) != SEQUENCE_DIGITS or not (sequence.isascii() and sequence.isdigit()):
        raise InvalidEvent(f"sequence must be {SEQUENCE_DIGITS} digits, got {shown(sequence)}")
    return int(sequence)


class _Started(_CloudEvent, frozen=True, gc=False, kw_only=True, tag=MirrorStarted.TYPE):
    data: MirrorStarted


class _Completed(_CloudEvent, frozen=True, gc=False, kw_only=True, tag=MirrorCompleted.TYPE):
    data: MirrorCompleted


class _Failed(_CloudEvent, frozen=True, gc=False, kw_only=True, tag=MirrorFailed.TYPE):
    data: MirrorFailed


class _ScriptRun(_CloudEvent, frozen=True, gc=False, kw_only=True, tag=ScriptRun.TYPE):
    data: ScriptRun


class _Heartbeat(_CloudEvent, frozen=True, gc=False, kw_only=True, tag=SpoolHeartbeat.TYPE):
    data: SpoolHeartbeat

    def _partition_key(self) -> str:
        return f"spool:{self.source}"


_decoder = msgspec.json.Decoder(_Started | _Completed | _Failed | _ScriptRun | _Heartbeat)


def _explain(body: bytes, error: Exception) -> NoReturn:
    """Finds the reason for a refused body. Slow, but few bodies are refused."""
    attributes = _json_object(body)
    event_type = attributes.get("type")
    if isinstance(event_type, str) and event_type not in TYPES:
        raise DecodeError(
            Reason.UNKNOWN_TYPE,
            f"type {shown(event_type)} is not one of {', '.join(TYPES)}",
            attributes,
        ) from error
    detail = str(error)
    if not isinstance(error, msgspec.ValidationError | InvalidEvent):
        # The standard library accepts what msgspec does not: an escape of an unpaired surrogate.
        detail = f"a string contains an unpaired surrogate, or a number is out of range ({error})"
    raise DecodeError(Reason.INVALID, detail, attributes) from error


def _readable_attributes(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_READABLE_BYTES:
        return {}
    try:
        return _json_object(body)
    except DecodeError:
        return {}


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(
            body.decode(), parse_constant=_refuse_constant, parse_int=_whole_number
        )
    except UnicodeDecodeError as error:
        raise DecodeError(Reason.MALFORMED, f"the body is not UTF-8: {error}") from error
    except RecursionError as error:
        raise DecodeError(Reason.MALFORMED, "the JSON is nested too deeply to be read") from error
    except ValueError as error:
        raise DecodeError(Reason.MALFORMED, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise DecodeError(
            Reason.MALFORMED, f"the body is a JSON {type(document).__name__}, not an object"
        )
    return document


def _whole_number(digits: str) -> float:
    """Of any length: the grammar allows that, int() does not."""
    return int(digits) if len(digits) < MAX_DIGITS else float(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")  # RFC 8259, section 6; Python accepts it anyway


def _storable_text(value: object) -> str | None:
    storable = isinstance(value, str) and "\0" not in value and not has_lone_surrogate(value)
    return str(value) if storable else None


def _storable_sequence(value: object) -> int | None:
    try:
        sequence = _number_of(value) if isinstance(value, str) else 0
    except InvalidEvent:
        return None
    return sequence if 1 <= sequence <= MAX_SEQUENCE else None


def _storable_id(value: object) -> int | None:
    return value if type(value) is int and 1 <= value <= MAX_BRANCH_ID else None
