"""Bytes on the wire: as the golden files have them, as other CloudEvents software reads them."""

from datetime import UTC, datetime

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from mirrorfeed.contract import wire
from mirrorfeed.contract.events import (
    MAX_BRANCH_ID,
    Envelope,
    Event,
    MirrorCompleted,
    MirrorEvent,
    MirrorFailed,
    MirrorStarted,
    ScriptRun,
    SpoolHeartbeat,
)
from tests.builders import at, completed, failed
from tests.wire_samples import GOLDEN, REFUSED, body_with, events, instants

STARTED_AT = datetime(2007, 7, 5, 19, 32, 1, tzinfo=UTC)
ENDED_AT = datetime(2007, 7, 5, 19, 34, 24, 123456, tzinfo=UTC)
EVENTS: dict[str, tuple[Event, datetime]] = {
    "mirror.started": (MirrorStarted(1, STARTED_AT), STARTED_AT),
    "mirror.completed": (MirrorCompleted(1, STARTED_AT, "rev-1"), ENDED_AT),
    "mirror.failed": (MirrorFailed(1, STARTED_AT, 'fatal: "größe" \u2603 not found'), ENDED_AT),
    "script.run": (ScriptRun("branch-puller", "vostok", STARTED_AT, ENDED_AT), ENDED_AT),
    "spool.heartbeat": (SpoolHeartbeat("vostok", "0.2.0", 3, STARTED_AT, 0), ENDED_AT),
}


def sample(event_type: str) -> Envelope:
    event, time = EVENTS[event_type]
    source = "/pullers/vostok/0f9a3c61-3c0f-4a52-9a55-3a3f5d4e7c11"
    return Envelope("5b6a0b1e-1d5c-4f57-8f2b-6f3c2c1f9d10", source, time, event, 42)


@pytest.mark.parametrize("event_type", EVENTS)
def test_each_type_is_written_as_its_golden_file(event_type: str) -> None:
    """A change of these bytes is a change of the contract."""
    golden = (GOLDEN / f"{event_type}.json").read_bytes().rstrip(b"\n")
    assert wire.encode(sample(event_type)) == golden


@pytest.mark.parametrize("event_type", EVENTS)
def test_each_golden_file_is_read_as_its_event(event_type: str) -> None:
    """Messages sent by an older version stay readable."""
    assert wire.decode((GOLDEN / f"{event_type}.json").read_bytes()) == sample(event_type)


@pytest.mark.parametrize("event_type", EVENTS)
def test_the_cloudevents_sdk_reads_the_same(event_type: str) -> None:
    """Any CloudEvents consumer can read our events."""
    envelope = sample(event_type)
    event = JSONFormat().read(CloudEvent, wire.encode(envelope))
    assert event.get_id() == envelope.id
    assert event.get_source() == envelope.source
    assert event.get_type() == event_type
    assert event.get_subject() == envelope.event.subject
    assert event.get_time() == envelope.time
    assert event.get_extension("partitionkey") == envelope.partition_key
    assert event.get_extension("sequence") == "00000000000000000042"


@pytest.mark.parametrize("event_type", EVENTS)
def test_what_the_cloudevents_sdk_writes_is_read(event_type: str) -> None:
    """Any CloudEvents producer can write events for us."""
    envelope = sample(event_type)
    event = JSONFormat().read(CloudEvent, wire.encode(envelope))
    assert wire.decode(JSONFormat().write(event)) == envelope


@given(event=events, sequence=st.none() | st.integers(1, 2**63 - 1))
def test_every_event_comes_back_as_it_was(event: Event, sequence: int | None) -> None:
    """Encoding loses nothing."""
    time = getattr(event, "started_at", ENDED_AT)
    envelope = Envelope("id", "/pullers/vostok/x", time, event, sequence)
    assert wire.decode(wire.encode(envelope)) == envelope


@given(event=events, time=instants)
def test_every_event_has_its_position(event: Event, time: datetime) -> None:
    """The quick look at a message and the full reading agree."""
    if isinstance(event, MirrorStarted):
        time = event.started_at
    envelope = Envelope("id", "/pullers/vostok/x", time, event)
    position = wire.position_of(wire.encode(envelope))
    if isinstance(event, SpoolHeartbeat):  # has no place among events about the same thing
        assert position is None
        return
    branch_id = event.branch_id if isinstance(event, MirrorEvent) else None
    assert position == wire.Position(envelope.partition_key, event.started_at, time, branch_id)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[" * 100_000,
        body_with(time="2007-07-05T19:32:01"),
        body_with(partitionkey=7),
        body_with(data={"branch_id": 2**63}),
        body_with(data={"branch_id": "7"}),
        body_with(data={"started_at": "yesterday"}),
    ],
)
def test_what_cannot_be_placed_has_no_position(body: bytes) -> None:
    """Other letters can still be sorted, and their branches locked."""
    assert wire.position_of(body) is None


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_raise_a_decode_error(body: bytes) -> None:
    """A worker survives whatever a queue holds."""
    with pytest.raises(wire.DecodeError):
        wire.decode(body)


def test_unknown_fields_are_ignored() -> None:
    """A newer publisher may say more."""
    assert wire.decode(body_with(traceparent="00-x", data={"duration": 3})).event == (
        MirrorFailed(1, at(0), "reason")
    )


def test_a_missing_datacontenttype_means_json() -> None:
    """The CloudEvents JSON format says so."""
    assert wire.decode(body_with(datacontenttype=None)).event == MirrorFailed(1, at(0), "reason")


def test_offsets_are_instants() -> None:
    """RFC 3339 lets a publisher write its own offset."""
    envelope = wire.decode(body_with(time="2026-01-01T02:00:01+02:00"))
    assert envelope.time == at(1)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_contracts_is_refused_under_its_reason(case: str) -> None:
    """The first reason that fits counts, in the contract's order."""
    body, reason = REFUSED[case]
    with pytest.raises(wire.DecodeError) as refusal:
        wire.decode(body)
    assert refusal.value.reason == reason
    assert refusal.value.detail


def test_a_refusal_tells_what_could_still_be_read() -> None:
    """An operator can search for the message by it."""
    with pytest.raises(wire.DecodeError) as refusal:
        wire.decode(body_with(id="the-id", data={"reason": "x" * 9000}))
    assert refusal.value.event_id == "the-id"
    assert refusal.value.source == "/pullers/vostok/test"
    assert refusal.value.type == "mirror.failed"
    assert refusal.value.branch_id == 1


def test_a_refusal_keeps_nothing_that_cannot_be_stored() -> None:
    """Its attributes go into database columns."""
    with pytest.raises(wire.DecodeError) as refusal:
        wire.decode(body_with(id="a\0b", source=7, data={"branch_id": 2**63}))
    assert refusal.value.event_id is None
    assert refusal.value.source is None
    assert refusal.value.branch_id is None


def test_the_largest_event_fits() -> None:
    """No event that can be constructed is too large to be sent."""
    assert wire.decode(wire.encode(failed(MAX_BRANCH_ID, 0, "\x01" * 8192)))
    assert wire.decode(wire.encode(completed(MAX_BRANCH_ID, 0, "\U0001f600" * 1024)))
