"""uvicorn, as our services run it."""

import signal
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest

from mirrorfeed.contract import asgi
from mirrorfeed.contract.supervision import Supervisor
from tests.servers import PATIENCE_SECONDS
from tests.stub_service import Stub


def test_a_server_that_does_not_look_is_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would look in an hour. What is told once more, when it has ended, does no harm."""
    monkeypatch.setattr(asgi, "TICK_SECONDS", 3600.0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    config = asgi.server_config(
        app, connections=8, keep_alive_seconds=1, head_seconds=1, end_seconds=1
    )
    server = asgi.SupervisedServer(config, Supervisor(Stub(), {}))
    with (
        asgi.listener("127.0.0.1", 0, connections=8) as listening,
        ThreadPoolExecutor(1) as threads,
    ):
        serving = threads.submit(server.run, [listening])
        host, port = listening.getsockname()
        caller = HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
        caller.request("GET", "/")
        assert caller.getresponse().status == 204
        caller.close()
        server.handle_exit(signal.SIGTERM, None)
        serving.result(PATIENCE_SECONDS)
        server.handle_exit(signal.SIGTERM, None)
