"""uvicorn as our services run it. Needs an extra that brings it: only what serves imports this."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from mirrorfeed.contract.supervision import Supervisor

TICK_SECONDS = 1.0
TICKS_OF_UVICORN = 10
"""As many it makes in that time. Every tenth does what is to be done once a second."""
LEAVE_SECONDS = 0.5
"""So long before uvicorn cancels requests in hand, and logs each as an error, the server leaves
clients that are still there: most of those requests wait for their clients."""

SEND_BUFFER_BYTES = 128 * 1024
"""How much of an answer the kernel takes before its client does."""


class SupervisedServer(Server):
    """Tells systemd how its service is, and leaves clients that do not complete a request's head,
    or take nothing of an answer: uvicorn has no deadline for that. And it does not look ten times a
    second whether it is to end.
    """

    def __init__(self, config: Config, supervisor: Supervisor) -> None:
        """Clients are looked at as often as `config` has it: who is still at the same head as last
        time, or has still as much of an answer to take, is left."""
        super().__init__(config)
        config.callback_notify = self.on_look
        self._supervisor = supervisor
        self._waited_for: set[object] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told_to_end = asyncio.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            ticks = 0
            while not await self.on_tick(ticks):
                ticks += TICKS_OF_UVICORN
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._told_to_end.wait(), TICK_SECONDS)
        finally:
            self._loop = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:  # else the first tick sees it, or it has ended
            self._loop.call_soon_threadsafe(self._told_to_end.set)

    async def on_look(self) -> None:
        waited_for: set[object] = set()
        for connection in self._connections():
            unread = connection.transport.get_write_buffer_size()
            if unread or _is_at_a_head(connection):
                state = (connection, connection.cycle, unread)
                waited_for.add(state)
                if state in self._waited_for:
                    connection.transport.abort()
        self._waited_for = waited_for

    async def on_tick(self, counter: int) -> bool:
        # In the loop that serves, so that a watchdog notices if that hangs.
        self._supervisor.tell()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._supervisor.stopping()
        seconds = max(0.0, (self.config.timeout_graceful_shutdown or 0) - LEAVE_SECONDS)
        leaving = asyncio.get_running_loop().call_later(seconds, self._leave_all)
        await super().shutdown(sockets)
        leaving.cancel()

    def _leave_all(self) -> None:
        for connection in self._connections():
            connection.transport.abort()

    def _connections(self) -> list[H11Protocol]:
        return [each for each in self.server_state.connections if isinstance(each, H11Protocol)]


def _is_at_a_head(connection: H11Protocol) -> bool:
    """Whether it has no request in hand."""
    return connection.cycle is None or connection.cycle.response_complete


def listener(host: str, port: int, *, connections: int) -> socket.socket:
    """At most so many wait to be accepted. Raises OSError if it cannot listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=connections)
    # Connections inherit this: an answer's head and body are sent separately, without waiting.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The kernel would hold megabytes of answers for each client that takes none.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return sock


def place_of(sock: socket.socket, host: str) -> str:
    """Where it listens, as a URL has it."""
    address = f"[{host}]" if ":" in host else host
    return f"{address}:{sock.getsockname()[1]}"


def server_config(
    app: Callable[..., Awaitable[None]],
    *,
    connections: int,
    keep_alive_seconds: int,
    head_seconds: int,
    end_seconds: int,
    protocol: type[H11Protocol] = H11Protocol,
    tls: ssl.SSLContext | None = None,
) -> Config:
    """Unlike uvicorn's defaults, this does not depend on which other packages are installed.

    A SupervisedServer leaves a client that does not complete a request's head, or takes nothing of
    an answer, after one to two times `head_seconds`. Once the server is told to end, requests in
    hand may take `end_seconds`, and their clients LEAVE_SECONDS less.
    """
    return Config(
        app,
        loop="asyncio",
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=connections,
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=end_seconds,
        timeout_notify=head_seconds,
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )
