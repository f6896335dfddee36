"""Events for tests, in few words."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from mirrorfeed.consumer.apply.message import Message, read_message
from mirrorfeed.contract import wire
from mirrorfeed.contract.events import (
    Envelope,
    Event,
    MirrorCompleted,
    MirrorFailed,
    MirrorStarted,
    ScriptRun,
    SpoolHeartbeat,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """An instant in a test's story, in seconds after START."""
    return START + timedelta(seconds=seconds)


def envelope(event: Event, time: datetime | None = None, sequence: int | None = None) -> Envelope:
    if time is None:
        assert not isinstance(event, SpoolHeartbeat)
        time = event.completed_at if isinstance(event, ScriptRun) else event.started_at
    return Envelope(str(uuid4()), "/pullers/vostok/test", time, event, sequence)


def started(branch_id: int, start: float) -> Envelope:
    return envelope(MirrorStarted(branch_id, at(start)))


def completed(
    branch_id: int, start: float, revision: str | None, end: float | None = None
) -> Envelope:
    return envelope(
        MirrorCompleted(branch_id, at(start), revision), at(start + 1 if end is None else end)
    )


def failed(branch_id: int, start: float, reason: str, end: float | None = None) -> Envelope:
    return envelope(
        MirrorFailed(branch_id, at(start), reason), at(start + 1 if end is None else end)
    )


def script_run(name: str, start: float, end: float, hostname: str = "vostok") -> Envelope:
    return envelope(ScriptRun(name, hostname, at(start), at(end)))


def messages(*envelopes: Envelope) -> list[Message]:
    return [read_message(wire.encode(each)) for each in envelopes]


def bodies(envelopes: Iterable[Envelope]) -> list[bytes]:
    return [wire.encode(each) for each in envelopes]
