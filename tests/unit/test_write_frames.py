"""Messages written in one step, beside pika's own way."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties
from pika.adapters.select_connection import SelectConnection
from pika.callback import CallbackManager
from pika.channel import Channel

from mirrorfeed.amqp.write_frames import GATHERED_BYTES, MessageWriter

EXCHANGE = "mirror.events"
CONTENT_TYPE = "application/json"
MAX_SHORT_STRING_BYTES = 255


class Published(NamedTuple):
    """What varies from message to message."""

    routing_key: str
    message_id: str
    type: str
    body: bytes


def open_channel(number: int, frame_bytes: int) -> tuple[Channel, list[bytes]]:
    """A channel of pika's, and what is written to it."""
    connection = SelectConnection.__new__(SelectConnection)
    connection.callbacks = CallbackManager()
    connection._body_max_length = frame_bytes
    written: list[bytes] = []
    connection._output_marshaled_frames = written.extend
    channel = Channel(connection, number, print)
    channel._set_state(Channel.OPEN)
    return channel, written


def writer_on(channel: Any, user_id: str | None = "puller") -> MessageWriter:
    return MessageWriter(channel, exchange=EXCHANGE, content_type=CONTENT_TYPE, user_id=user_id)


def written_by_pika(
    number: int, frame_bytes: int, user_id: str | None, messages: Sequence[Published]
) -> bytes:
    channel, written = open_channel(number, frame_bytes)
    for message in messages:
        properties = BasicProperties(
            content_type=CONTENT_TYPE,
            delivery_mode=2,
            message_id=message.message_id,
            type=message.type,
            user_id=user_id,
        )
        channel.basic_publish(
            EXCHANGE, message.routing_key, message.body, properties, mandatory=True
        )
    return b"".join(written)


short_strings = st.text(max_size=60).filter(lambda text: len(text.encode()) < 256)
messages = st.builds(
    Published, short_strings, short_strings, short_strings, st.binary(max_size=100)
)


@given(
    st.lists(messages, max_size=3),
    st.integers(1, 2**16 - 1),
    st.integers(1, 101),
    st.none() | short_strings,
)
def test_what_is_written_is_what_pika_writes(
    published: list[Published], number: int, frame_bytes: int, user_id: str | None
) -> None:
    """It is the same byte for byte, however much of a body fits into one frame."""
    channel, written = open_channel(number, frame_bytes)
    with writer_on(channel, user_id) as writer:
        for message in published:
            writer.publish(*message)
    assert b"".join(written) == written_by_pika(number, frame_bytes, user_id, published)


def test_what_is_published_together_is_written_at_once() -> None:
    """It is written when the block ends; without messages nothing is written."""
    channel, written = open_channel(1, 1000)
    writer = writer_on(channel)
    with writer:
        for number in range(3):
            writer.publish("key", str(number), "type", b"body")
        assert written == []
    with writer:
        pass
    assert len(written) == 1


def test_what_is_much_does_not_wait_for_the_end() -> None:
    """This bounds the memory and keeps the broker busy."""
    channel, written = open_channel(1, GATHERED_BYTES)
    with writer_on(channel) as writer:
        writer.publish("key", "id", "type", bytes(GATHERED_BYTES))
        assert len(written) == 1


def test_what_is_published_is_written_though_the_block_fails() -> None:
    """The pipeline counts it as unconfirmed, so it must have been sent."""
    channel, written = open_channel(1, 1000)
    with suppress(OSError), writer_on(channel) as writer:
        writer.publish("key", "id", "type", b"body")
        raise OSError("disk")
    assert len(written) == 1


def test_a_short_string_has_255_bytes_at_most() -> None:
    """Nothing is written of a message with a longer one."""
    channel, written = open_channel(1, 1000)
    longest = Published("k" * MAX_SHORT_STRING_BYTES, "id", "type", b"body")
    with writer_on(channel) as writer:
        writer.publish(*longest)
        with pytest.raises(ValueError, match="256"):
            writer.publish("key", "ä" * 128, "type", b"body")
    assert b"".join(written) == written_by_pika(1, 1000, "puller", [longest])
