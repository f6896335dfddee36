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


class SupervisedServer(Server):
    """Tells systemd how its service is, and leaves clients that do not complete a request's head:
    uvicorn has no deadline for that. And it does not look ten times a second whether it is to end.
    """

    def __init__(self, config: Config, supervisor: Supervisor) -> None:
        """Clients are looked at as often as `config` has it: who is still at the same head as last
        time is left."""
        super().__init__(config)
        config.callback_notify = self.on_look
        self._supervisor = supervisor
        self._silent: set[tuple[H11Protocol, object]] = set()
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
        silent = {
            (connection, connection.cycle)
            for connection in self.server_state.connections
            if isinstance(connection, H11Protocol)
            and (connection.cycle is None or connection.cycle.response_complete)
        }
        for connection, _ in silent & self._silent:
            connection.transport.abort()
        self._silent = silent

    async def on_tick(self, counter: int) -> bool:
        # In the loop that serves, so that a watchdog notices if that hangs.
        self._supervisor.tell()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._supervisor.stopping()
        await super().shutdown(sockets)


def listener(host: str, port: int, *, connections: int) -> socket.socket:
    """At most so many wait to be accepted. Raises OSError if it cannot listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=connections)
    # Connections inherit this: an answer's head and body are sent separately, without waiting.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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

    A SupervisedServer leaves a client that does not complete a request's head after one to two
    times `head_seconds`. Once the server is told to end, requests in hand may take `end_seconds`.
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
