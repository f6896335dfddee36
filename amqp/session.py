"""The life of one connection, the same on both sides."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pika
from pika.exceptions import ChannelClosedByClient, ConnectionClosedByClient, ConnectionOpenAborted


class Session(ABC):
    """A connection that never recovers: any failure ends all of it.

    All methods are called in the thread that runs the connection's I/O loop.
    """

    def __init__(self, connect: Callable[..., Any], parameters: pika.URLParameters) -> None:
        self.error: BaseException | None = None
        """The first failure, which ended it; None if it was told to end."""
        self._connection = connect(
            parameters,
            on_open_callback=self._on_connection_open,
            on_open_error_callback=self._on_connection_ended,
            on_close_callback=self._on_connection_ended,
        )
        self._ioloop = self._connection.ioloop

    @abstractmethod
    def _on_connection_open(self, connection: Any) -> None: ...

    def _on_channel_closed(self, channel: Any, reason: Exception) -> None:
        # Once the connection is closing, its channels close too: that is no failure.
        if self._connection.is_open and not isinstance(reason, ChannelClosedByClient):
            self._end(reason)

    def _on_connection_ended(self, connection: Any, reason: Exception) -> None:
        if not isinstance(reason, ConnectionClosedByClient | ConnectionOpenAborted):
            self.error = self.error or reason
        self._ioloop.stop()

    def _end(self, error: BaseException | None = None) -> None:
        self.error = self.error or error
        if self._connection.is_closed:
            self._ioloop.stop()
        elif not self._connection.is_closing:
            self._connection.close()  # also closes the socket of a connection that is still opening
