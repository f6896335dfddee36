"""What can happen on a puller host, as values that cannot be wrong.

Every rule about an event's fields is here, and only here. It is checked when a publisher constructs
an event, and when a consumer decodes one: `mirrorfeed.contract.wire` builds the same classes.
"""

from datetime import UTC, datetime
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import force_setattr

from mirrorfeed.contract.secrets import masked_start

MAX_BRANCH_ID = 2**63 - 1
"""PostgreSQL's largest `bigint`."""
MAX_SEQUENCE = 2**63 - 1
MAX_ID_LENGTH = 255
MAX_NAME_LENGTH = 255
MAX_REVISION_LENGTH = 1024
MAX_REASON_LENGTH = 8192
"""Lengths are in characters (Unicode code points)."""
MAX_QUOTED_LENGTH = 1000
"""Of a longer value an error message looks at no more than its beginning."""


class InvalidEvent(ValueError):
    """A value breaks a rule of the contract; the message names field, value and rule."""


class MirrorEvent(Struct, frozen=True, gc=False):
    """Something about a mirror attempt, which `(branch_id, started_at)` identifies forever.

    Raises InvalidEvent.
    """

    TYPE: ClassVar[str]

    branch_id: int
    started_at: datetime

    def __post_init__(self) -> None:
        check_branch_id(self.branch_id)
        normalise_instant(self, "started_at")

    @property
    def subject(self) -> str:
        return str(self.branch_id)

    @property
    def partition_key(self) -> str:
        return f"branch:{self.branch_id}"


class MirrorStarted(MirrorEvent, frozen=True, gc=False):
    """The attempt began."""

    TYPE: ClassVar[str] = "mirror.started"


class MirrorCompleted(MirrorEvent, frozen=True, gc=False):
    """The attempt mirrored the branch, up to `revision_id` if that is known."""

    TYPE: ClassVar[str] = "mirror.completed"

    revision_id: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.revision_id is not None:
            check_text("revision_id", self.revision_id, at_most=MAX_REVISION_LENGTH)


class MirrorFailed(MirrorEvent, frozen=True, gc=False):
    """The attempt failed; `reason` tells a person why."""

    TYPE: ClassVar[str] = "mirror.failed"

    reason: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text("reason", self.reason, at_most=MAX_REASON_LENGTH)


class ScriptRun(Struct, frozen=True, gc=False):
    """A script ran on a host and ended normally. Raises InvalidEvent."""

    TYPE: ClassVar[str] = "script.run"

    name: str
    hostname: str
    started_at: datetime
    completed_at: datetime

    def __post_init__(self) -> None:
        check_text("name", self.name, at_least=1, at_most=MAX_NAME_LENGTH)
        check_text("hostname", self.hostname, at_least=1, at_most=MAX_NAME_LENGTH)
        normalise_instant(self, "started_at")
        normalise_instant(self, "completed_at")
        if self.completed_at < self.started_at:
            raise InvalidEvent(
                f"completed_at must not be before started_at, got {self.completed_at.isoformat()}"
                f" before {self.started_at.isoformat()}"
            )

    @property
    def subject(self) -> str:
        return self.name

    @property
    def partition_key(self) -> str:
        return f"script:{self.name}"


class SpoolHeartbeat(Struct, frozen=True, gc=False):
    """A forwarder is there, although its spool was quiet for a while. Raises InvalidEvent.

    So that a silent host is noticed, and so is a spool whose latest events never arrived.
    """

    TYPE: ClassVar[str] = "spool.heartbeat"

    hostname: str
    version: str
    """Of mirrorfeed."""
    pending: int
    """How many events wait for the broker, not counting this one."""
    oldest_pending_at: datetime | None
    """When the first of them was spooled; None if there is none."""
    refused: int
    """How many events the broker would not take."""

    def __post_init__(self) -> None:
        check_text("hostname", self.hostname, at_least=1, at_most=MAX_NAME_LENGTH)
        check_text("version", self.version, at_least=1, at_most=MAX_NAME_LENGTH)
        check_count("pending", self.pending)
        check_count("refused", self.refused)
        if self.oldest_pending_at is not None:
            normalise_instant(self, "oldest_pending_at")

    @property
    def subject(self) -> str:
        return self.hostname


Event = MirrorStarted | MirrorCompleted | MirrorFailed | ScriptRun | SpoolHeartbeat


class Envelope(Struct, frozen=True, gc=False):
    """One event with what identifies it: the CloudEvents attributes that vary.

    `time` is when it happened by the puller's clock. `sequence` is the event's number within its
    source, from 1 without gaps, or None if the publisher does not number its events. Raises
    InvalidEvent.
    """

    id: str
    source: str
    time: datetime
    event: Event
    sequence: int | None = None

    def __post_init__(self) -> None:
        check_text("id", self.id, at_least=1, at_most=MAX_ID_LENGTH)
        check_text("source", self.source, at_least=1)
        normalise_instant(self, "time")
        if self.sequence is not None and not 1 <= self.sequence <= MAX_SEQUENCE:
            raise InvalidEvent(
                f"sequence must be a number from 1 to {MAX_SEQUENCE}, got {shown(self.sequence)}"
            )
        if isinstance(self.event, MirrorStarted) and self.time != self.event.started_at:
            raise InvalidEvent(
                f"time of a mirror.started must equal its started_at, got {self.time.isoformat()}"
                f" and {self.event.started_at.isoformat()}"
            )

    @property
    def partition_key(self) -> str:
        """Events with one key stay in order."""
        if isinstance(self.event, SpoolHeartbeat):
            return f"spool:{self.source}"
        return self.event.partition_key


def check_count(field: str, value: object) -> None:
    if type(value) is not int or not 0 <= value <= MAX_SEQUENCE:
        raise InvalidEvent(
            f"{field} must be a whole number from 0 to {MAX_SEQUENCE}, got {shown(value)}"
        )


def check_branch_id(value: object) -> None:
    if type(value) is not int or not 1 <= value <= MAX_BRANCH_ID:
        raise InvalidEvent(
            f"branch_id must be a whole number from 1 to {MAX_BRANCH_ID}, got {shown(value)}"
        )


def normalise_instant(owner: Struct, field: str) -> None:
    """An instant needs an offset; it is kept in UTC, within the years 1 to 9999."""
    value = getattr(owner, field)
    if not isinstance(value, datetime):
        raise InvalidEvent(f"{field} must be a datetime with a time zone, got {shown(value)}")
    if value.tzinfo is UTC:
        return
    if value.utcoffset() is None:
        raise InvalidEvent(
            f"{field} has no time zone: {value.isoformat()}; give its offset, as in"
            f" {value.isoformat()}+00:00 (in Python: tzinfo=datetime.UTC)"
        )
    try:
        force_setattr(owner, field, value.astimezone(UTC))
    except OverflowError as error:
        raise InvalidEvent(
            f"{field} is outside the years 1 to 9999 in UTC: {value.isoformat()}"
        ) from error


def check_text(field: str, value: object, *, at_least: int = 0, at_most: int | None = None) -> None:
    """PostgreSQL cannot store NUL, and UTF-8 cannot encode an unpaired surrogate."""
    if not isinstance(value, str):
        raise InvalidEvent(f"{field} must be a string, got {shown(value)}")
    if len(value) < at_least:
        raise InvalidEvent(f"{field} must not be empty")
    if at_most is not None and len(value) > at_most:
        raise InvalidEvent(
            f"{field} must be at most {at_most} characters, got {len(value)}: {shown(value)}"
        )
    if "\0" in value:
        raise InvalidEvent(f"{field} must not contain NUL: {shown(value)}")
    if not value.isascii() and has_lone_surrogate(value):
        raise InvalidEvent(f"{field} contains an unpaired surrogate: {shown(value)}")


def has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def shown(value: object) -> str:
    """The value as an error message quotes it: unambiguous, without secrets, at most a line."""
    if isinstance(value, str | bytes) and len(value) > MAX_QUOTED_LENGTH:
        kind = "characters" if isinstance(value, str) else "bytes"
        return f"{masked_start(repr(value[:MAX_QUOTED_LENGTH]), 80)}… ({len(value):,} {kind})"
    text = masked_start(repr(value), MAX_QUOTED_LENGTH)
    return text if len(text) <= 100 else f"{text[:80]}… ({len(text):,} characters)"
