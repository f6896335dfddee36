"""Deliveries read in one step, beside pika's own way."""

import struct
from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import frame
from pika.adapters.select_connection import SelectConnection
from pika.callback import CallbackManager
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from mirrorfeed.amqp.read_frames import MAX_WHOLE_BYTES, DeliveryConnection

CHANNELS = (1, 2)
MAX_FRAME_BYTES = 128 * 1024
HEARTBEAT = frame.Heartbeat().marshal()

Seen = tuple[int, str, int, bool, Any, str | None, bytes]


def read(cls: Any, pieces: Sequence[bytes]) -> list[Seen]:
    """What consumers of each channel get from a connection to which the broker sends this."""
    connection = cls.__new__(cls)
    connection._frame_buffer = b""
    connection.bytes_received = connection.frames_received = 0
    connection.callbacks = CallbackManager()
    connection._heartbeat_checker = None
    seen: list[Seen] = []

    def consume(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        about = method.consumer_tag, method.delivery_tag, method.redelivered
        # Nobody distinguishes a message without headers from one with none.
        headers = properties.headers or {}
        seen.append((channel.channel_number, *about, headers, properties.user_id, body))

    connection._channels = {number: Channel(connection, number, print) for number in CHANNELS}
    for channel in connection._channels.values():
        channel._consumers = {"tag": consume, "gone": consume}
        channel._cancelled = {"gone"}
    for piece in pieces:
        connection._on_data_available(piece)
    assert connection._frame_buffer == b""
    assert connection.bytes_received == sum(map(len, pieces))
    return seen


def frames(
    channel: int,
    body: bytes,
    properties: BasicProperties,
    consumer_tag: str = "tag",
    redelivered: bool = False,
) -> list[bytes]:
    method = Basic.Deliver(consumer_tag, 7, redelivered, "mirror.events", "mirror.started.5")
    bodies = [
        frame.Body(channel, body[at : at + MAX_FRAME_BYTES]).marshal()
        for at in range(0, len(body), MAX_FRAME_BYTES)
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
    | st.sampled_from([MAX_WHOLE_BYTES, MAX_WHOLE_BYTES + 1, MAX_FRAME_BYTES + 1]).map(bytes),
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
    assert read(DeliveryConnection, [message, HEARTBEAT]) == [
        (1, "tag", 7, False, {}, None, b"body")
    ]


def test_a_small_message_never_becomes_frames() -> None:
    """This is what makes reading fast."""
    with mock.patch.object(SelectConnection, "_process_frame") as process_frame:
        (seen,) = read(DeliveryConnection, [b"".join(frames(1, b"body", BasicProperties()))])
    assert seen[-1] == b"body"
    assert not process_frame.called


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
    assert read(DeliveryConnection, [mixed]) == [
        (1, "tag", 7, False, {}, "puller", b"one"),
        (2, "tag", 7, False, {"a": 1}, None, b"two"),
    ]
