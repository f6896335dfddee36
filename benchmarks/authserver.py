"""How many calls a second the authserver answers, compared with servers that only answer True.

`python -m benchmarks.authserver uvicorn|threaded` runs one of those servers.
"""

import signal
import sys
from contextlib import ExitStack, closing
from http import HTTPStatus
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from uvicorn import Server

from benchmarks.callers import is_empty
from benchmarks.harness import Row, Rows, Target, at_least, measure
from benchmarks.stand import NOBODY_LISTENS, Stand, result_of, wait_for_log
from mirrorfeed.contract import asgi
from mirrorfeed.publisher.authserver import server as own
from mirrorfeed.publisher.authserver.faults import TRUE
from mirrorfeed.publisher.authserver.request import parse_call
from mirrorfeed.publisher.spool import Spool
from tests.servers import wait_for

CALLS = 4000
WARM_UP = 400
ROUNDS = 5


@measure("authserver", rounds=ROUNDS)
def authserver(stand: Stand) -> Rows:
    """The servers run all the time; their turns alternate."""
    stand.clear()
    with ExitStack() as stack:

        def listening(*command: str) -> str:
            """The port that the command says it listens on."""
            server = stack.enter_context(stand.running(*command))
            return wait_for_log(server, r"listens on http://127\.0\.0\.1:(\d+)/")[1]

        def bare(kind: str) -> str:
            return listening("python", "-m", "benchmarks.authserver", kind)

        def ours(spool: Path, amqp_url: str) -> str:
            options = ("--port", "0", "--spool", str(spool), "--amqp-url", amqp_url)
            return listening("mirror-publisher", "authserver", *options)

        def row(what: str, port: str, *targets: Target) -> Row:
            rate(port, WARM_UP)
            return Row(what, "calls/s", lambda: rate(port, CALLS), *targets)

        def rate(port: str, calls: int) -> float:
            with stand.calling("xmlrpc", port, calls) as callers:
                calls_per_second: float = result_of(callers)
            # Events that are still to be sent must not slow the next row down.
            wait_for(lambda: is_empty(views[0]), "the authserver to send it")
            return calls_per_second

        spools = [stand.folder / f"authserver-{state}.db" for state in ("up", "down")]
        views = [stack.enter_context(closing(Spool(spool))) for spool in spools]
        fastest = row("bare: the same server, answers True", bare("uvicorn"))
        threaded = row("the standard library's, threaded, answers True", bare("threaded"))
        what, target = "mirror-publisher authserver, broker %s", at_least(0.5, fastest)
        up = row(what % "up", ours(spools[0], stand.amqp_url), target)
        down = row(what % "down", ours(spools[1], NOBODY_LISTENS), target)
        yield {"authserver, 8 connections": [fastest, threaded, up, down]}
        for view in views:
            calls, spooled = WARM_UP + ROUNDS * CALLS, view.status().spooled
            if spooled != calls:
                raise RuntimeError(f"{calls} calls were answered True, but {spooled} spooled")


async def bare_app(scope: own.Message, receive: own.Receive, send: own.Send) -> None:
    """Reads and parses a request as the authserver does."""
    parse_call(await own.body_of(scope, receive))
    await own.answer(send, HTTPStatus.OK, TRUE, own.XML)


class ThreadedHandler(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"


class ThreadedServer(ThreadingMixIn, SimpleXMLRPCServer):
    """The standard library's server, with a thread per connection; connections stay open."""

    daemon_threads = True

    def _dispatch(self, method: str, params: Any) -> bool:
        return True


def uvicorn() -> None:
    server = Server(own.server_config(bare_app))
    signal.signal(signal.SIGTERM, server.handle_exit)
    with asgi.listener("127.0.0.1", 0, connections=own.MAX_CONNECTIONS) as sock:
        _tell(sock.getsockname())
        server.run([sock])


def threaded() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with ThreadedServer(("127.0.0.1", 0), ThreadedHandler, logRequests=False) as server:
        _tell(server.server_address)
        server.serve_forever()


def _tell(address: Any) -> None:
    sys.stderr.write(f"listens on http://127.0.0.1:{address[1]}/\n")
    sys.stderr.flush()


if __name__ == "__main__":
    {"uvicorn": uvicorn, "threaded": threaded}[sys.argv[1]]()
