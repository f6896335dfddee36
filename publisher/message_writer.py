"""Writes messages to an open channel in one step each, many at once.

pika's `basic_publish` makes an object of each of a message's three frames (AMQP 0-9-1, sections
2.3.5 and 4.2) and three system calls, which is most of what the forwarder does. Every system call
hands the interpreter over, and the puller's calls wait for it.
"""

import struct
from typing import Any, Self

from pika.spec import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD, Basic, BasicProperties

FRAME = struct.Struct(">BHI")  # type, channel, size
PUBLISH = struct.Struct(">BHIIH")  # the same, method, reserved
HEADER = struct.Struct(">BHIHHQH")  # type, channel, size, class, weight, body size, flags
END = bytes((FRAME_END,))
MANDATORY = b"\x01"
PERSISTENT = b"\x02"
FLAGS: int = (
    BasicProperties.FLAG_CONTENT_TYPE
    | BasicProperties.FLAG_DELIVERY_MODE
    | BasicProperties.FLAG_MESSAGE_ID
    | BasicProperties.FLAG_TYPE
)
GATHERED_BYTES = 64 * 1024


class MessageWriter:
    """Publishes persistent, mandatory messages.

    A context: what was published within it is on its way when it ends. More than GATHERED_BYTES
    do not wait for that.
    """

    def __init__(
        self, channel: Any, *, exchange: str, content_type: str, user_id: str | None
    ) -> None:
        """Each message names the user `user_id`, unless it is None."""
        self._connection = channel.connection
        self._number: int = channel.channel_number
        self._exchange = _short_string(exchange)
        self._flags = FLAGS | (0 if user_id is None else BasicProperties.FLAG_USER_ID)
        self._first_properties = _short_string(content_type) + PERSISTENT
        self._last_properties = b"" if user_id is None else _short_string(user_id)
        self._gathered = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._gathered:
            self._write()

    def publish(self, routing_key: str, message_id: str, message_type: str, body: bytes) -> None:
        arguments = self._exchange + _short_string(routing_key) + MANDATORY
        properties = (
            self._first_properties
            + _short_string(message_id)
            + _short_string(message_type)
            + self._last_properties
        )
        number = self._number
        self._gathered += b"".join(
            (
                PUBLISH.pack(FRAME_METHOD, number, 6 + len(arguments), Basic.Publish.INDEX, 0),
                arguments,
                END,
                HEADER.pack(
                    *(FRAME_HEADER, number, 14 + len(properties)),
                    *(Basic.INDEX, 0, len(body), self._flags),
                ),
                properties,
                END,
            )
        )
        most: int = self._connection._body_max_length  # as the broker wants it
        for begin in range(0, len(body), most):
            part = body[begin : begin + most]
            self._gathered += b"".join((FRAME.pack(FRAME_BODY, number, len(part)), part, END))
        if len(self._gathered) > GATHERED_BYTES:
            self._write()

    def _write(self) -> None:
        self._connection._output_marshaled_frames([bytes(self._gathered)])
        self._gathered.clear()


def _short_string(text: str) -> bytes:
    """Its length in one byte, then itself. Raises ValueError beyond 255 bytes."""
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded
