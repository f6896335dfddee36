"""uvicorn, as our services run it."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from typing import Any

import pytest

from mirrorfeed.contract import asgi
from mirrorfeed.contract.supervision import Supervisor
from sandbox import wait_until
from tests.servers import PATIENCE_SECONDS
from tests.stub_service import Stub

LARGE = bytes(32 * 1024 * 1024)
"""More than the kernel keeps of an answer."""
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def large(scope: Any, receive: Any, send: Any) -> None:
    """An answer that is not complete before most of it is taken."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LARGE, "more_body": True})
    await send({"type": "http.response.body"})


async def whole(scope: Any, receive: Any, send: Any) -> None:
    """The same, but the server has all of it at once."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LARGE})


async def reading(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Looking(asgi.SupervisedServer):
    """Looks at its clients when a test says so."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()

    def look(self) -> None:
        asyncio.run_coroutine_threadsafe(self.on_look(), self.loop).result(PATIENCE_SECONDS)

    def unread(self) -> list[int]:
        """How much of its answer each client has yet to take."""
        connections = list(self.server_state.connections)
        return [each.transport.get_write_buffer_size() for each in connections]


@contextmanager
def served(app: Any) -> Iterator[tuple[Looking, tuple[str, int], "Future[None]"]]:
    """A server, its address, and its end."""
    config = asgi.server_config(
        app, connections=8, keep_alive_seconds=60, head_seconds=3600, end_seconds=1
    )
    server = Looking(config, Supervisor(Stub(), {}))
    with (
        asgi.listener("127.0.0.1", 0, connections=8) as listening,
        ThreadPoolExecutor(1) as threads,
    ):
        serving = threads.submit(server.run, [listening])
        try:
            yield server, listening.getsockname(), serving
        finally:
            server.handle_exit(signal.SIGTERM, None)
            serving.result(PATIENCE_SECONDS)


def wait(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, PATIENCE_SECONDS, what)


def test_a_server_that_does_not_look_is_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would look in an hour. What is told once more, when it has ended, does no harm."""
    monkeypatch.setattr(asgi, "TICK_SECONDS", 3600.0)
    with served(nothing) as (server, address, serving):
        caller = HTTPConnection(*address, timeout=PATIENCE_SECONDS)
        caller.request("GET", "/")
        assert caller.getresponse().status == 204
        caller.close()
        server.handle_exit(signal.SIGTERM, None)
        serving.result(PATIENCE_SECONDS)


@pytest.mark.parametrize(("app", "requests"), [(large, 1), (whole, 2), (nothing, 50_000)])
def test_who_takes_nothing_of_an_answer_is_left(app: Any, requests: int) -> None:
    """Though it is not complete, or another one is wanted: nobody waits for the next request."""
    with served(app) as (server, address, _), socket.create_connection(address) as client:
        client.settimeout(1)
        with suppress(TimeoutError):  # the server does not read on
            client.sendall(requests * REQUEST)
        wait(lambda: any(server.unread()), "an answer that nobody takes")

        def is_left() -> bool:
            server.look()
            return server.unread() == []

        wait(is_left, "the end of the connection")


def test_who_takes_an_answer_slowly_gets_all_of_it() -> None:
    """As long as it has taken something since the last look."""
    with served(large) as (server, address, _), socket.create_connection(address) as client:
        client.settimeout(PATIENCE_SECONDS)
        client.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        wait(lambda: any(server.unread()), "an answer that nobody takes")
        taken = b""
        for _ in range(5):
            server.look()
            before = server.unread()
            while server.unread() == before:
                taken += client.recv(64 * 1024)
        length = len(taken) + sum(map(len, iter(lambda: client.recv(1024 * 1024), b"")))
    assert length > len(LARGE)


@pytest.mark.parametrize(("app", "length"), [(large, 0), (reading, 9)])
def test_clients_that_do_nothing_are_left_without_a_word_at_the_end(
    app: Any, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that take no answer, and those that never send all of a request."""
    request = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    with served(app) as (server, address, serving), socket.create_connection(address) as client:
        client.sendall(request.encode())
        wait(lambda: bool(server.server_state.tasks), "the request")
        server.handle_exit(signal.SIGTERM, None)
        serving.result(PATIENCE_SECONDS)
    assert caplog.messages == []
