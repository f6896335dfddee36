"""uvicorn, set up for a few people who keep a page open."""

import logging
import signal
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine
from uvicorn import Config, Server

from mirrorfeed.consumer.web.access import Access
from mirrorfeed.consumer.web.app import application
from mirrorfeed.consumer.web.context import Context, Settings
from mirrorfeed.consumer.web.operator import Operator
from mirrorfeed.consumer.web.shared import Shared
from mirrorfeed.consumer.web.watch import Watch
from mirrorfeed.contract import asgi
from mirrorfeed.contract.supervision import TELL_SECONDS, Supervisor

MOST_CONNECTIONS = 256
KEEP_ALIVE_SECONDS = 15
END_SECONDS = 3
"""How long requests in hand may take once the server is told to end."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger(__name__)


def serve(
    engine: Engine,
    watch: Watch,
    settings: Settings,
    access: Access,
    host: str,
    port: int,
    operator: Operator | None = None,
) -> None:
    """Serves the page until SIGINT or SIGTERM. Raises OSError if it cannot listen there."""
    threads = ThreadPoolExecutor(2, thread_name_prefix="renewal")
    context = Context(engine, watch, Shared(threads), settings, operator)
    with asgi.listener(host, port, connections=MOST_CONNECTIONS) as sock:
        where = f"http://{asgi.place_of(sock, host)}{settings.prefix}/"
        supervisor = Supervisor(watch)
        server = Server(_config(context, access, supervisor))
        for number in SIGNALS:
            signal.signal(number, server.handle_exit)
        watch.start()
        try:
            logger.info("the page is at %s", where)
            if operator is not None:
                operator.start()
            server.run([sock])
        finally:
            supervisor.stopping()
            watch.stop()
            if operator is not None:
                operator.stop()
                operator.engine.dispose()
            threads.shutdown(wait=False, cancel_futures=True)
            engine.dispose()


def _config(context: Context, access: Access, supervisor: Supervisor) -> Config:
    async def tell() -> None:
        # In the loop that serves, so that a watchdog notices if that hangs.
        supervisor.tell()

    return asgi.server_config(
        application(context, access),
        connections=MOST_CONNECTIONS,
        keep_alive_seconds=KEEP_ALIVE_SECONDS,
        end_seconds=END_SECONDS,
        tick_seconds=round(TELL_SECONDS),
        on_tick=tell,
    )
