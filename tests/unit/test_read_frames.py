"""Deliveries read in one step, beside pika's own way."""

import struct
import tracemalloc
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import BasicProperties, data, frame
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel
from pika.spec import Basic

from mirrorfeed.amqp import fast_paths
from mirrorfeed.amqp.connections import connection_parameters
from mirrorfeed.amqp.read_frames import (
    MAX_JOINED_BYTES,
    MAX_WHOLE_BYTES,
    UNCOUNTED_BYTES,
    DeliveryConnection,
    EncodedProperties,
    delivery_connection,
    properties_bytes,
    tolerate_undecodable_headers,
)
from sandbox.memory_broker import MAX_BODY_FRAME_BYTES, MemoryBroker

CHANNELS = (1, 2)
HEARTBEAT = frame.Heartbeat().marshal()

Seen = tuple[int, str, int, bool, Any, str | None, bytes]


def read(connection_class: Any, pieces: Sequence[bytes]) -> tuple[list[Seen], list[bytes]]:
    """What consumers of each channel get from a connection to which the broker sends this, and what
    the connection writes."""
    seen: list[Seen] = []

    def consume(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        about = method.consumer_tag, method.delivery_tag, method.redelivered
        # Nobody distinguishes a message without headers from one with none.
        headers = properties.headers or {}
        seen.append((channel.channel_number, *about, headers, properties.user_id, body))

    with MemoryBroker(connection_class) as broker:
        for number in CHANNELS:
            channel = broker.open_channel(number)
            broker.consume(channel, "tag", consume)
            broker.consume(channel, "gone", consume)
            channel.basic_cancel("gone")
        broker.written.clear()
        received_before = broker.connection.bytes_received
        for piece in pieces:
            broker.send(piece)
        assert broker.connection.bytes_received - received_before == sum(map(len, pieces))
        return seen, broker.written


def frames(
    channel: int,
    body: bytes,
    properties: BasicProperties,
    consumer_tag: str = "tag",
    redelivered: bool = False,
) -> list[bytes]:
    method = Basic.Deliver(consumer_tag, 7, redelivered, "mirror.events", "mirror.started.5")
    bodies = [
        frame.Body(channel, body[at : at + MAX_BODY_FRAME_BYTES]).marshal()
        for at in range(0, len(body), MAX_BODY_FRAME_BYTES)
    ]
    return [
        frame.Method(channel, method).marshal(),
        frame.Header(channel, len(body), properties).marshal(),
        *bodies,
    ]


properties = st.builds(
    BasicProperties,
    headers=st.none() | st.dictionaries(st.sampled_from("ab"), st.integers(0, 9)),
    message_id=st.none() | st.just("id"),
    user_id=st.none() | st.just("puller"),
    delivery_mode=st.just(2),
)
messages = st.builds(
    frames,
    st.sampled_from(CHANNELS),
    st.binary(max_size=20)
    | st.sampled_from([MAX_WHOLE_BYTES, MAX_WHOLE_BYTES + 1, MAX_BODY_FRAME_BYTES + 1]).map(bytes),
    properties,
    st.sampled_from(["tag", "gone", "unknown"]),
    st.booleans(),
)


@given(st.lists(messages | st.just([HEARTBEAT]), max_size=5), st.data())
@settings(deadline=None)
def test_however_the_bytes_are_cut_consumers_get_what_pika_gives(
    sent: list[list[bytes]], data: st.DataObject
) -> None:
    """Message size, properties, missing consumers and the number of pieces make no difference."""
    stream = b"".join(part for message in sent for part in message)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(DeliveryConnection, pieces) == read(SelectConnection, pieces)


def test_what_has_arrived_is_not_kept_waiting() -> None:
    """A message or heartbeat is handled as soon as its last byte is there."""
    message = b"".join(frames(1, b"body", BasicProperties()))
    seen, _ = read(DeliveryConnection, [message, HEARTBEAT])
    assert seen == [(1, "tag", 7, False, {}, None, b"body")]


def test_a_small_message_never_becomes_frames() -> None:
    """That is what makes it fast."""
    message = b"".join(frames(1, b"body", BasicProperties()))
    with mock.patch.object(frame, "Body", side_effect=AssertionError):
        ((seen,), _) = read(DeliveryConnection, [message])
        with pytest.raises(AssertionError):
            read(SelectConnection, [message])
    assert seen[-1] == b"body"


def test_a_large_body_is_left_in_pieces() -> None:
    """To join them would take its size in memory a second time. The next one is as usual."""
    body = bytes(range(256)) * (MAX_JOINED_BYTES // 256)
    sent = [frames(1, body + b"x", BasicProperties()), frames(1, body, BasicProperties())]
    (large, joined), _ = read(DeliveryConnection, [part for message in sent for part in message])
    assert isinstance(large[-1], tuple)
    assert max(map(len, large[-1])) <= MAX_BODY_FRAME_BYTES
    assert b"".join(large[-1]) == body + b"x"
    assert joined[-1] == body


@pytest.mark.parametrize(
    "table",
    [
        {"": []},
        {"": [None] * 20_000},
        {"": [[]] * 10_000},
        {"": [{}] * 10_000},
        {"": [Decimal(0)] * 10_000},
        {"": [1000] * 10_000},
        {"": ["ab"] * 10_000},
        {f"{number:x}": None for number in range(10_000)},
        {f"{number:x}": {"": ""} for number in range(8_000)},
    ],
)
def test_what_headers_take_in_memory_is_not_underrated(table: dict[str, Any]) -> None:
    """Each byte of a table may become dozens, and that before or after it is decoded."""
    encoded = BasicProperties(headers=table).encode()
    tracemalloc.start()
    properties = BasicProperties().decode(b"".join(encoded))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    allowance = 32 * UNCOUNTED_BYTES
    assert properties_bytes(properties) + allowance >= taken
    assert properties_bytes(EncodedProperties(b"".join(encoded))) + allowance >= taken


def test_what_pika_cannot_read_is_an_error() -> None:
    """It is not mistaken for a frame that has yet to arrive."""
    header = frame.Header(1, 4, BasicProperties(message_id="id")).marshal()
    beheaded = header[:3] + (2).to_bytes(4) + header[7:9] + header[-1:]
    with pytest.raises(struct.error):
        read(DeliveryConnection, [beheaded])


def test_messages_of_two_channels_may_be_interleaved() -> None:
    """Frames keep their order only within a channel."""
    one = frames(1, b"one", BasicProperties(user_id="puller"))
    two = frames(2, b"two", BasicProperties(headers={"a": 1}))
    mixed = b"".join(part for pair in zip(one, two, strict=True) for part in pair)
    seen, _ = read(DeliveryConnection, [mixed])
    assert seen == [
        (1, "tag", 7, False, {}, "puller", b"one"),
        (2, "tag", 7, False, {"a": 1}, None, b"two"),
    ]


@pytest.mark.parametrize("connection_class", [DeliveryConnection, SelectConnection])
def test_headers_that_pika_cannot_decode_are_kept_as_bytes(
    connection_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other properties are decoded all the same, and so is the next message."""
    monkeypatch.setattr(data, "decode_table", data.decode_table)  # put back in the end
    tolerate_undecodable_headers()
    header = frame.Header(1, 4, BasicProperties(headers={"k": "value"}, user_id="puller")).marshal()
    undecodable = header.replace(b"S\0\0\0", b"?\0\0\0")
    first, _, body = frames(1, b"body", BasicProperties())
    good = frames(1, b"next", BasicProperties(headers={"a": 1}))
    seen, _ = read(connection_class, [first + undecodable + body, *good])
    assert [each[4:] for each in seen] == [
        ({"undecodable": b"\x01k?\0\0\0\x05value"}, "puller", b"body"),
        ({"a": 1}, None, b"next"),
    ]


def test_a_pika_that_decodes_headers_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single message would stop its worker again and again: the error says what to install."""
    monkeypatch.setattr(data, "decode_table", data.decode_table)  # put back in the end
    monkeypatch.setattr(BasicProperties, "decode", mock.Mock(side_effect=OverflowError))
    with pytest.raises(ValueError, match=r"cannot use pika .*; install one of 1\.3\.0"):
        tolerate_undecodable_headers()


@pytest.mark.parametrize(
    ("are_used", "expected"), [(True, DeliveryConnection), (False, SelectConnection)]
)
def test_a_version_that_was_not_compared_reads_in_its_own_way(
    are_used: bool, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pika's own class, and nothing that leans on its private names."""
    monkeypatch.setattr(fast_paths, "are_used", lambda: are_used)
    (parameters,) = connection_parameters("amqp://guest:guest@127.0.0.1:1/")
    connection = delivery_connection(parameters)
    connection.ioloop.close()
    assert type(connection) is expected
