"""uvicorn, set up for a few people who keep a page open."""

import logging
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from mirrorfeed.consumer.web.access import Access
from mirrorfeed.consumer.web.app import application
from mirrorfeed.consumer.web.context import Context, Settings
from mirrorfeed.consumer.web.shared import Shared
from mirrorfeed.consumer.web.watch import Watch
from mirrorfeed.contract.supervision import TELL_SECONDS, Supervisor

MOST_CONNECTIONS = 256
KEEP_ALIVE_SECONDS = 15
END_SECONDS = 3
"""How long requests in hand may take once the server is told to end."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger(__name__)


def serve(
    engine: Engine, watch: Watch, settings: Settings, access: Access, host: str, port: int
) -> None:
    """Serves the page until SIGINT or SIGTERM. Raises OSError if it cannot listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    threads = ThreadPoolExecutor(2, thread_name_prefix="renewal")
    context = Context(engine, watch, Shared(threads), settings)
    with socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS) as sock:
        address = f"[{host}]" if ":" in host else host
        where = f"http://{address}:{sock.getsockname()[1]}{settings.prefix}/"
        supervisor = Supervisor(watch)
        server = Server(_config(context, access, supervisor))
        for number in SIGNALS:
            signal.signal(number, server.handle_exit)
        watch.start()
        try:
            logger.info("the page is at %s", where)
            server.run([sock])
        finally:
            supervisor.stopping()
            watch.stop()
            threads.shutdown(wait=False, cancel_futures=True)
            engine.dispose()


def _config(context: Context, access: Access, supervisor: Supervisor) -> Config:
    """Unlike uvicorn's defaults, this does not depend on which other packages are installed."""

    async def tell() -> None:
        # In the loop that serves, so that a watchdog notices if that hangs.
        supervisor.tell()

    return Config(
        application(context, access),
        loop="asyncio",
        http=H11Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=END_SECONDS,
        timeout_notify=round(TELL_SECONDS),
        callback_notify=tell,
    )
