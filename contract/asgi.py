"""uvicorn as our services run it. Needs an extra that brings it: only what serves imports this."""

import logging
import socket
import ssl
from collections.abc import Awaitable, Callable

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol


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
    end_seconds: int,
    tick_seconds: int,
    on_tick: Callable[[], Awaitable[None]] | None = None,
    protocol: type[H11Protocol] = H11Protocol,
    tls: ssl.SSLContext | None = None,
) -> Config:
    """Unlike uvicorn's defaults, this does not depend on which other packages are installed.

    `on_tick` is called every `tick_seconds`. Once the server is told to end, requests in hand may
    take `end_seconds`.
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
        timeout_notify=tick_seconds,
        callback_notify=on_tick,
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )
