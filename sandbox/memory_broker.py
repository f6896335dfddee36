"""A broker in memory for one connection of pika's: it notes what is written, and sends what it is
told to send.

It uses no private name of pika, so it works with any version.
"""

import socket
from collections.abc import Callable
from typing import Any, Self

from pika import ConnectionParameters, frame
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.nbio_interface import AbstractStreamTransport
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter
from pika.channel import Channel
from pika.spec import FRAME_END_SIZE, FRAME_HEADER_SIZE, Basic, Connection
from pika.spec import Channel as ChannelMethods

MAX_CHANNELS = 2**16 - 1
MAX_BODY_FRAME_BYTES = 128 * 1024


class MemoryBroker:
    """A context: the other end of `connection`, which is open."""

    def __init__(
        self, connection_class: Any, *, max_body_frame_bytes: int = MAX_BODY_FRAME_BYTES
    ) -> None:
        """Raises RuntimeError if `connection_class`, a SelectConnection, does not open."""
        self.written: list[bytes] = []
        """What the connection wrote since it or a channel or a subscription was opened, each write
        by itself."""
        self.channels: list[Channel] = []
        services = _MemoryServices(self.written.append)
        self.connection = connection_class(
            ConnectionParameters(heartbeat=0), custom_ioloop=services
        )
        self._ioloop = services.get_native_ioloop()
        self._ioloop.start()
        self._protocol = services.protocol
        frame_bytes = max_body_frame_bytes + FRAME_HEADER_SIZE + FRAME_END_SIZE
        capabilities = {"basic.nack": True, "publisher_confirms": True}
        self.send_method(0, Connection.Start(server_properties={"capabilities": capabilities}))
        self.send_method(0, Connection.Tune(MAX_CHANNELS, frame_bytes, heartbeat=0))
        self.send_method(0, Connection.OpenOk())
        if not self.connection.is_open:
            raise RuntimeError(f"{self.connection} did not open")
        self.written.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ioloop.close()

    def send(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def send_method(self, channel_number: int, method: Any) -> None:
        self.send(frame.Method(channel_number, method).marshal())

    def open_channel(self, number: int) -> Channel:
        channel = self.connection.channel(number)
        self.send_method(number, ChannelMethods.OpenOk())
        self.written.clear()
        self.channels.append(channel)
        return channel

    def consume(self, channel: Channel, consumer_tag: str, callback: Callable[..., None]) -> None:
        channel.basic_consume("queue", callback, consumer_tag=consumer_tag)
        self.send_method(channel.channel_number, Basic.ConsumeOk(consumer_tag))
        self.written.clear()

    def written_frames(self) -> list[Any]:
        stream, frames = b"".join(self.written), []
        while stream:
            size, one = frame.decode_frame(stream)
            frames.append(one)
            stream = stream[size:]
        return frames


class _MemoryServices(SelectorIOServicesAdapter):  # type: ignore[misc]  # pika has no types
    """What a connection needs of the system, of which no system knows."""

    protocol: Any = None

    def __init__(self, write: Callable[[bytes], None]) -> None:
        super().__init__(IOLoop())
        self._write = write

    def getaddrinfo(self, host: str, port: int, on_done: Any, **_: Any) -> None:
        address = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))
        self.add_callback_threadsafe(lambda: on_done([address]))

    def connect_socket(self, sock: socket.socket, resolved_addr: Any, on_done: Any) -> None:
        self.add_callback_threadsafe(lambda: on_done(None))

    def create_streaming_connection(
        self, protocol_factory: Any, sock: socket.socket, on_done: Any, **_: Any
    ) -> None:
        sock.close()
        self.protocol = protocol_factory()
        transport = _MemoryTransport(self.protocol, self._write)
        self.protocol.connection_made(transport)
        on_done((transport, self.protocol))
        self.stop()


class _MemoryTransport(AbstractStreamTransport):  # type: ignore[misc]  # pika has no types
    def __init__(self, receiver: Any, on_written: Callable[[bytes], None]) -> None:
        self._receiver = receiver
        self._on_written = on_written

    def write(self, data: bytes) -> None:
        self._on_written(data)

    def abort(self) -> None:
        self._receiver.connection_lost(None)

    def get_protocol(self) -> Any:
        return self._receiver

    def get_write_buffer_size(self) -> int:
        return 0
