"""Messages written in one step, beside pika's own way."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel

from mirrorfeed.amqp import fast_paths
from mirrorfeed.amqp.write_frames import (
    GATHERED_BYTES,
    MessageWriter,
    PlainWriter,
    message_writer,
)
from sandbox.memory_broker import MemoryBroker

EXCHANGE = "mirror.events"
CONTENT_TYPE = "application/json"
MAX_SHORT_STRING_BYTES = 255
MIN_BODY_FRAME_BYTES = 4088
"""What fits into the smallest frame that a broker may ask for."""


class Published(NamedTuple):
    """What varies from message to message."""

    routing_key: str
    message_id: str
    type: str
    body: bytes


@contextmanager
def open_channel(
    number: int = 1, body_frame_bytes: int = 2 * GATHERED_BYTES
) -> Iterator[tuple[Channel, list[bytes]]]:
    """A channel of pika's, and what is written to it."""
    with MemoryBroker(SelectConnection, max_body_frame_bytes=body_frame_bytes) as broker:
        yield broker.open_channel(number), broker.written


def writer_on(
    channel: Any,
    user_id: str | None = "puller",
    cls: type[MessageWriter | PlainWriter] = MessageWriter,
) -> MessageWriter | PlainWriter:
    return cls(channel, exchange=EXCHANGE, content_type=CONTENT_TYPE, user_id=user_id)


def written_by_pika(
    number: int, body_frame_bytes: int, user_id: str | None, messages: Sequence[Published]
) -> bytes:
    with open_channel(number, body_frame_bytes) as (channel, written):
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
bodies = st.binary(max_size=100) | st.integers(0, 3 * MIN_BODY_FRAME_BYTES).map(bytes)
messages = st.builds(Published, short_strings, short_strings, short_strings, bodies)


@pytest.mark.parametrize("cls", [MessageWriter, PlainWriter])
@given(
    st.lists(messages, max_size=3),
    st.integers(1, 2**16 - 1),
    st.integers(MIN_BODY_FRAME_BYTES, 2 * MIN_BODY_FRAME_BYTES),
    st.none() | short_strings,
)
def test_what_is_written_is_what_pika_writes(
    cls: type[MessageWriter | PlainWriter],
    published: list[Published],
    number: int,
    body_frame_bytes: int,
    user_id: str | None,
) -> None:
    """Byte for byte, however much of a body the broker takes in one frame."""
    with open_channel(number, body_frame_bytes) as (channel, written):
        with writer_on(channel, user_id, cls) as writer:
            for message in published:
                writer.publish(*message)
        assert b"".join(written) == written_by_pika(number, body_frame_bytes, user_id, published)


def test_what_is_published_together_is_written_at_once() -> None:
    """When the block ends; and where nothing was published, nothing is written."""
    with open_channel() as (channel, written):
        writer = writer_on(channel)
        with writer:
            for number in range(3):
                writer.publish("key", str(number), "type", b"body")
            assert written == []
        with writer:
            pass
        assert len(written) == 1


def test_what_is_much_does_not_wait_for_the_end() -> None:
    """Memory is bounded, and the broker has something to do."""
    with open_channel() as (channel, written), writer_on(channel) as writer:
        writer.publish("key", "id", "type", bytes(GATHERED_BYTES))
        assert len(written) == 1


@pytest.mark.parametrize("cls", [MessageWriter, PlainWriter])
def test_what_is_published_is_written_though_the_block_fails(
    cls: type[MessageWriter | PlainWriter],
) -> None:
    """The pipeline counts it as unconfirmed: it must have been sent."""
    with open_channel() as (channel, written):
        with suppress(OSError), writer_on(channel, cls=cls) as writer:
            writer.publish("key", "id", "type", b"body")
            raise OSError("disk")
        assert b"body" in b"".join(written)


def test_a_short_string_has_255_bytes_at_most() -> None:
    """Nothing of a message that has a longer one is written."""
    longest = Published("k" * MAX_SHORT_STRING_BYTES, "id", "type", b"body")
    with open_channel(1, MIN_BODY_FRAME_BYTES) as (channel, written):
        with writer_on(channel) as writer:
            writer.publish(*longest)
            with pytest.raises(ValueError, match="256"):
                writer.publish("key", "ä" * 128, "type", b"body")
        assert b"".join(written) == written_by_pika(1, MIN_BODY_FRAME_BYTES, "puller", [longest])


@pytest.mark.parametrize(("are_used", "expected"), [(True, MessageWriter), (False, PlainWriter)])
def test_a_version_that_was_not_compared_writes_in_its_own_way(
    are_used: bool, expected: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing that leans on pika's private names."""
    monkeypatch.setattr(fast_paths, "are_used", lambda: are_used)
    with open_channel() as (channel, _):
        writer = message_writer(
            channel, exchange=EXCHANGE, content_type=CONTENT_TYPE, user_id="puller"
        )
    assert type(writer) is expected
