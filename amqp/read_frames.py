"""The worker's connection to RabbitMQ, which reads a delivery in one step.

A worker mostly receives small messages of three frames each: method, header and body (AMQP 0-9-1,
sections 2.3.5 and 4.2). pika makes an object of each frame and looks up its receiver, which takes
longer than decoding and applying the event. So here the small messages that are complete in the
buffer go straight to their consumers. Anything else takes pika's own path, frame by frame, except
that a large body is left in pieces: to join them takes its size in memory a second time. Everything
takes pika's own path with a version of pika that this was not compared with.
"""

import struct
from typing import Any

from msgspec import Struct
from pika import URLParameters, __version__, data, frame
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel, ContentFrameAssembler
from pika.spec import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD, Basic, BasicProperties

from mirrorfeed.amqp import fast_paths

FRAME = struct.Struct(">BHI")  # type, channel, size
DELIVER = struct.Struct(">BHIIB")  # the same, method, length of the consumer tag
DELIVERED = struct.Struct(">Q?")  # delivery tag, redelivered
HEADER = struct.Struct(">BHIHHQ")  # type, channel, size, class, weight, body size
FLAGS = struct.Struct(">H")
END_BYTES = 1
ENDS = (FRAME_END,) * 3
DELIVER_INDEX = Basic.Deliver.INDEX
MAX_RECEIVED_BYTES = 64 * 1024
"""At once from the socket, where pika takes 4 KiB: each time another thread may take the
interpreter."""
MAX_WHOLE_BYTES = 64 * 1024
"""A larger body may take several frames; an empty one takes none."""
MAX_JOINED_BYTES = 1024 * 1024
"""A larger body comes as a tuple of its pieces."""
UNCOUNTED_BYTES = 512
"""Properties as publishers usually set them are shorter, and not worth counting."""
DECODED = 32
"""How many times as large a table may become when decoded: 26, if it has many tiny entries."""
PRINTED = 20
"""The same, compared with what Python prints of the decoded table: 18, if it has empty ones."""
HEADERS_BIT = BasicProperties.FLAG_HEADERS >> 8
USER_ID_BIT = BasicProperties.FLAG_USER_ID
"""The flags are the first two bytes, these in the first and in the second."""
UNDECODABLE = (b"\x01kT" + b"\xff" * 8, b"\x01k?")
"""Tables that pika cannot decode: a timestamp out of range, a value of no known type."""


class Delivered(Struct, frozen=True, gc=False):
    """What a consumer needs of pika's `Basic.Deliver`, which takes four times as long to make."""

    consumer_tag: str
    delivery_tag: int
    redelivered: bool


class EncodedProperties(Struct, frozen=True, gc=False):
    """A message's properties, decoded only if one that is set is asked for."""

    encoded: bytes

    @property
    def headers(self) -> dict[str, Any] | None:
        is_set = self.encoded[0] & HEADERS_BIT
        headers: dict[str, Any] | None = self._decoded().headers if is_set else None
        return headers

    @property
    def user_id(self) -> str | None:
        is_set = self.encoded[1] & USER_ID_BIT
        user_id: str | None = self._decoded().user_id if is_set else None
        return user_id

    @property
    def size_bytes(self) -> int:
        """How much memory they may take once decoded, if that matters."""
        size_bytes = len(self.encoded)
        return 0 if size_bytes <= UNCOUNTED_BYTES else size_bytes * DECODED

    def _decoded(self) -> BasicProperties:
        return BasicProperties().decode(self.encoded)


def properties_bytes(properties: EncodedProperties | BasicProperties) -> int:
    """How much memory a message's properties may take, if that matters."""
    if isinstance(properties, EncodedProperties):
        return properties.size_bytes
    return len(repr(properties.headers)) * PRINTED if properties.headers else 0


class PieceAssembler(ContentFrameAssembler):  # type: ignore[misc]  # pika has no types
    """Leaves the pieces of a large body as they came."""

    def _finish(self) -> tuple[Any, Any, Any]:
        if self._seen_so_far <= MAX_JOINED_BYTES:
            message: tuple[Any, Any, Any] = super()._finish()
            return message
        pieces = tuple(self._body_fragments)
        message = self._method_frame, self._header_frame, pieces
        self._reset()
        return message


class DeliveryConnection(SelectConnection):  # type: ignore[misc]  # pika has no types
    """A SelectConnection whose consumers get small messages with EncodedProperties, and large
    bodies in pieces."""

    _frame_buffer: bytes

    def _create_channel(self, *arguments: Any) -> Channel:
        channel = super()._create_channel(*arguments)
        channel._content_assembler = PieceAssembler()
        return channel

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = MAX_RECEIVED_BYTES
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes) -> None:
        buffer = self._frame_buffer + data_in
        while buffer:
            end, is_whole = self._deliver(buffer)
            self._frame_buffer = buffer = buffer[end:]
            self.bytes_received += end
            if not (buffer and is_whole):
                return  # the rest has not arrived yet
            length, frame_value = self._read_frame()
            if frame_value is None:
                return
            self._trim_frame_buffer(length)
            self._process_frame(frame_value)
            buffer = self._frame_buffer

    def _deliver(self, buffer: bytes) -> tuple[int, bool]:
        """Gives the small messages at the start of the buffer to their consumers. Returns where
        they end, and whether something else follows; if not, it is a part of a message."""
        begin = 0
        while True:
            try:
                if buffer[begin] != FRAME_METHOD:
                    return begin, True  # perhaps a heartbeat, which is shorter than any method
                _, number, size, method, tag_size = DELIVER.unpack_from(buffer, begin)
                if method != DELIVER_INDEX:
                    return begin, True
                tag_at = begin + DELIVER.size
                delivered_at = tag_at + tag_size
                delivery_tag, redelivered = DELIVERED.unpack_from(buffer, delivered_at)
                header_at = begin + FRAME.size + size + END_BYTES
                header, header_number, size, _, _, body_size = HEADER.unpack_from(buffer, header_at)
                if header != FRAME_HEADER or header_number != number:
                    return begin, True
                if not 0 < body_size <= MAX_WHOLE_BYTES:
                    return begin, True
                body_at = header_at + FRAME.size + size + END_BYTES
                body, body_number, size = FRAME.unpack_from(buffer, body_at)
                if body != FRAME_BODY or body_number != number or size != body_size:
                    return begin, True
                content_at = body_at + FRAME.size
                end = content_at + size + END_BYTES
                ends = buffer[header_at - 1], buffer[body_at - 1], buffer[end - 1]
            except (struct.error, IndexError):
                return begin, False
            channel = self._channels.get(number)
            consumer_tag = buffer[tag_at:delivered_at].decode()
            if (
                ends != ENDS
                or channel is None
                or consumer_tag in channel._cancelled
                or (consume := channel._consumers.get(consumer_tag)) is None
            ):
                return begin, True
            consume(
                channel,
                Delivered(consumer_tag, delivery_tag, redelivered),
                EncodedProperties(buffer[header_at + HEADER.size : body_at - END_BYTES]),
                buffer[content_at : end - END_BYTES],
            )
            begin = end


def delivery_connection(parameters: URLParameters, **callbacks: Any) -> SelectConnection:
    """A connection for a consumer, as fast as this version of pika allows."""
    connect = DeliveryConnection if fast_paths.are_used() else SelectConnection
    return connect(parameters, **callbacks)


_decode_table: Any = getattr(data, "decode_table", None)


def tolerate_undecodable_headers() -> None:
    """From now on a table that pika cannot decode becomes `{"undecodable": bytes}` in this process.

    On a timestamp in milliseconds or a deeply nested table pika raises from within its I/O loop,
    and the connection ends. So a single message could keep a worker from its queue forever.

    Raises ValueError if this version of pika still raises.
    """
    data.decode_table = _decode_table_or_bytes
    try:
        for table in UNDECODABLE:
            _decode_headers(struct.pack(">I", len(table)) + table)
    except Exception as error:  # of many kinds, none of them documented
        raise ValueError(
            f"a worker cannot use pika {__version__}: it would end the connection on every message"
            " whose headers it cannot decode; install one of"
            f" {', '.join(sorted(fast_paths.COMPARED_VERSIONS))}"
        ) from error


def _decode_headers(table: bytes) -> None:
    """Has pika decode them the way it does on arrival."""
    properties = FLAGS.pack(BasicProperties.FLAG_HEADERS) + table
    size = HEADER.size - FRAME.size + len(properties)
    header = HEADER.pack(FRAME_HEADER, 1, size, Basic.INDEX, 0, 0)
    frame.decode_frame(header + properties + bytes((FRAME_END,)))


def _decode_table_or_bytes(encoded: bytes, offset: int) -> tuple[dict[Any, Any], int]:
    try:
        table, end = _decode_table(encoded, offset)
    except Exception:  # of many kinds, none of them documented
        begin = offset + 4
        end = begin + struct.unpack_from(">I", encoded, offset)[0]
        table = {"undecodable": encoded[begin:end]}
    return table, end
