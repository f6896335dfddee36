"""A delivered message, decoded: an event that may be applied, or the reason why not."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from sys import getsizeof
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple, replace

from mirrorfeed.contract.events import Envelope, Event, MirrorEvent, ScriptRun, shown
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.wire import DecodeError, decode

FUTURE_TOLERANCE = timedelta(hours=1)
HIGHEST_SEQUENCE = 10**12
"""Higher than any spool counts: at 10,000 events a second that takes three years."""
MAX_DELIVERIES = 2**31 - 1
"""As many as `dead_letter.attempts` can hold."""


class Limits(Struct, frozen=True, gc=False):
    """Beyond what an event of the contract is not believed."""

    future_tolerance: timedelta = FUTURE_TOLERANCE
    """How far an event's time may be ahead of this host's clock."""
    highest_sequence: int = HIGHEST_SEQUENCE
    """Of one event with a higher number, the ledger would miss all before it for ever."""


BYTES_PER_CHARACTER = 4
"""What each character of a string takes if one of them is beyond U+FFFF."""
DEFAULT_LIMITS = Limits()
NO_HEADERS: Mapping[str, Any] = {}


class Rejection(Struct, frozen=True, gc=False):
    """Why a message is not applied, and what could be read of it."""

    reason: Reason
    detail: str
    source: str | None = None
    id: str | None = None
    """Of the event."""
    type: str | None = None
    branch_id: int | None = None
    sequence: int | None = None


class Message(Struct, frozen=True, gc=False):
    """One message: its bytes and AMQP headers as they came, and what they mean."""

    body: bytes
    headers: Mapping[str, Any]
    content: Envelope | Rejection
    deliveries: int = 1
    """How often it was delivered, this time included."""

    @property
    def decoded_bytes(self) -> int:
        """How much memory its content takes beside the body: up to BYTES_PER_CHARACTER times as
        much. To find out takes half as long as to decode a small event."""
        content = self.content
        fields = astuple(content)
        if isinstance(content, Envelope):
            fields += astuple(content.event)
        return sum(map(getsizeof, fields))


def read_message(
    body: bytes,
    headers: Mapping[str, Any] | None = None,
    *,
    limits: Limits = DEFAULT_LIMITS,
    deliveries: int = 1,
) -> Message:
    """Decodes a message and holds it against the limits. Raises nothing."""
    content: Envelope | Rejection
    try:
        content = decode(body)
    except DecodeError as error:
        content = Rejection(
            error.reason,
            error.detail,
            error.source,
            error.event_id,
            error.type,
            error.branch_id,
            error.sequence,
        )
    if content.sequence is not None and content.sequence > limits.highest_sequence:
        content = _not_counted(content, limits.highest_sequence)
    elif isinstance(content, Envelope):
        latest = _latest_instant(content)
        if latest > datetime.now(UTC) + limits.future_tolerance:
            content = reject(
                content,
                Reason.FROM_THE_FUTURE,
                f"{latest.isoformat()} is more than {limits.future_tolerance} ahead of this clock:"
                " correct the publisher's clock",
            )
    return Message(body, headers or NO_HEADERS, content, deliveries)


def _not_counted(content: Envelope | Rejection, highest: int) -> Rejection:
    """A message with a number that no spool reaches, so that the number does not count."""
    if isinstance(content, Envelope):
        detail = (
            f"the sequence {content.sequence} is above {highest}, which no spool reaches:"
            " --highest-sequence sets that limit"
        )
        content = reject(content, Reason.INVALID, detail)
    return replace(content, sequence=None)


def reject(envelope: Envelope, reason: Reason, detail: str) -> Rejection:
    event = envelope.event
    return Rejection(
        reason,
        detail,
        envelope.source,
        envelope.id,
        event.TYPE,
        branch_id_of(event),
        envelope.sequence,
    )


def require_user(message: Message, user_id: str | None, users: Collection[str]) -> Message:
    """The message, if the broker vouches that one of these users published it, else a rejected one
    that does not count as arrived: anybody could have made up its source and number.

    `user_id` is the AMQP property, which RabbitMQ compares with the publishing connection's user
    (https://www.rabbitmq.com/docs/validated-user-id)."""
    if user_id in users:
        return message
    content = message.content
    detail = (
        f"published by {'an unnamed user' if user_id is None else shown(user_id)}, but"
        f" --require-user demands {' or '.join(sorted(users))}"
    )
    if isinstance(content, Envelope):
        content = reject(content, Reason.INVALID, detail)
    elif content.reason is Reason.FROM_THE_FUTURE:
        content = replace(content, reason=Reason.INVALID, detail=detail)
    return replace(message, content=replace(content, sequence=None))


def branch_id_of(event: Event) -> int | None:
    """The branch that the event is about; None if it is about none."""
    return event.branch_id if isinstance(event, MirrorEvent) else None


def branch_ids_of(messages: Iterable[Message]) -> set[int]:
    """The branches that the messages are about, as far as they can be read."""
    return {
        message.content.event.branch_id
        for message in messages
        if isinstance(message.content, Envelope) and isinstance(message.content.event, MirrorEvent)
    }


def attempts_of(messages: Iterable[Message]) -> set[tuple[int, datetime]]:
    """The attempts that the messages are about: of which branch, and when each began."""
    return {
        (message.content.event.branch_id, message.content.event.started_at)
        for message in messages
        if isinstance(message.content, Envelope) and isinstance(message.content.event, MirrorEvent)
    }


def _latest_instant(envelope: Envelope) -> datetime:
    event = envelope.event
    if isinstance(event, MirrorEvent):
        return max(envelope.time, event.started_at)
    if isinstance(event, ScriptRun):
        return max(envelope.time, event.completed_at)
    return envelope.time


def redeliveries(headers: Mapping[str, Any]) -> int:
    """How often a redelivered message has been delivered, this time included."""
    before = headers.get("x-delivery-count")
    # A publisher may have set a header of that name itself, to anything.
    if not isinstance(before, int) or not 1 <= before < MAX_DELIVERIES:
        before = 1
    return before + 1
