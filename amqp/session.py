"""The life of one connection, the same on both sides."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pika
from pika.exceptions import ChannelClosedByClient, ConnectionClosedByClient, ConnectionOpenAborted

CLOSE_SECONDS = 120.0
"""How long the broker may take to confirm that a connection is closed. One that has gone away, so
that no heartbeats come, is noticed before."""


class CloseUnanswered(Exception):
    """The broker did not confirm the end of a connection, and pika cannot do without."""

    def __init__(self) -> None:
        super().__init__(
            f"the broker has not confirmed for {CLOSE_SECONDS:.0f} s that a connection is closed"
        )


class Session(ABC):
    """A connection that never recovers: any failure ends all of it.

    All methods are called in the thread that runs the connection's I/O loop.
    """

    def __init__(self, connect: Callable[..., Any], parameters: pika.URLParameters) -> None:
        self.error: BaseException | None = None
        """The first failure, which ended it; None if it was told to end. CloseUnanswered if the
        connection may still be there."""
        self._is_opening = True
        self._is_ending = False
        self._connection = connect(
            parameters,
            on_open_callback=self._on_opened,
            on_open_error_callback=self._on_connection_ended,
            on_close_callback=self._on_connection_ended,
        )
        self._ioloop = self._connection.ioloop

    def _run_loop(self) -> None:
        """Runs the connection's I/O until the session has ended."""
        try:
            self._ioloop.start()
        except AssertionError:
            # If a connection is closed while the broker greets, pika ends it, and then stumbles: it
            # says so with a class in place of an instance (1.3.0 to 1.4.4, in
            # `AMQPConnectionWorkflow._on_connector_done`).
            if not (self._is_ending and self._is_opening and self._connection.is_closed):
                raise

    def _on_opened(self, connection: Any) -> None:
        self._is_opening = False
        self._on_connection_open(connection)

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
        elif not self._is_ending:
            self._is_ending = True
            self._ioloop.call_later(CLOSE_SECONDS, self._on_close_unanswered)
            self._close()

    def _close(self) -> None:
        # Also closes the socket of a connection that is still opening.
        self._connection.close()

    def _on_close_unanswered(self) -> None:
        self.error = CloseUnanswered()
        self._ioloop.stop()
