"""uvicorn, set up for a few people who keep a page open."""

import logging
import signal
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine

from mirrorfeed.consumer.web.access import Access, App
from mirrorfeed.consumer.web.app import application
from mirrorfeed.consumer.web.context import Context, Settings
from mirrorfeed.consumer.web.operator import Operator
from mirrorfeed.consumer.web.shared import Shared
from mirrorfeed.consumer.web.surveys import Surveys
from mirrorfeed.consumer.web.watch import Watch
from mirrorfeed.contract import asgi
from mirrorfeed.contract.supervision import Supervisor

MOST_CONNECTIONS = 256
KEEP_ALIVE_SECONDS = 15
HEAD_SECONDS = 15
"""A client that does not complete a request's head is dropped after one to two times this."""
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
    surveys = Surveys(engine, threads)
    context = Context(engine, watch, Shared(threads), surveys, settings, operator)
    with asgi.listener(host, port, connections=MOST_CONNECTIONS) as sock:
        where = f"http://{asgi.place_of(sock, host)}{settings.prefix}/"
        server = page_server(application(context, access), Supervisor(watch))
        for number in SIGNALS:
            signal.signal(number, server.handle_exit)
        watch.start()
        try:
            logger.info("the page is at %s", where)
            if operator is not None:
                operator.start()
            server.run([sock])
        finally:
            watch.stop()
            if operator is not None:
                operator.stop()
                operator.engine.dispose()
            surveys.stop()
            threads.shutdown(wait=False, cancel_futures=True)
            engine.dispose()


def page_server(app: App, supervisor: Supervisor) -> asgi.SupervisedServer:
    """uvicorn within the page's limits."""
    config = asgi.server_config(
        app,
        connections=MOST_CONNECTIONS,
        keep_alive_seconds=KEEP_ALIVE_SECONDS,
        head_seconds=HEAD_SECONDS,
        end_seconds=END_SECONDS,
    )
    return asgi.SupervisedServer(config, supervisor)
