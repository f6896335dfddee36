"""An XML-RPC server that answers True to all: `python -m benchmarks.bare_xmlrpc uvicorn|threaded`.

`uvicorn` is the authserver's own: it reads and parses a request in the same way. `threaded` is the
standard library's, with a thread for each connection, which it keeps open, too.
"""

import signal
import sys
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from uvicorn import Server

from mirrorfeed.publisher.authserver.calls import TRUE, XML, parse_call
from mirrorfeed.publisher.authserver.server import (
    Message,
    Receive,
    Send,
    answer,
    body_of,
    listener,
    server_config,
)


async def bare_app(scope: Message, receive: Receive, send: Send) -> None:
    parse_call(await body_of(scope, receive))
    await answer(send, HTTPStatus.OK, TRUE, XML)


class ThreadedHandler(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"


class ThreadedServer(ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True

    def _dispatch(self, method: str, params: Any) -> bool:
        return True


def serve_uvicorn() -> None:
    server = Server(server_config(bare_app))
    signal.signal(signal.SIGTERM, server.handle_exit)
    with listener("127.0.0.1", 0) as sock:
        tell(sock.getsockname())
        server.run([sock])


def serve_threaded() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with ThreadedServer(("127.0.0.1", 0), ThreadedHandler, logRequests=False) as server:
        tell(server.server_address)
        server.serve_forever()


def tell(address: Any) -> None:
    sys.stderr.write(f"listens on http://127.0.0.1:{address[1]}/\n")
    sys.stderr.flush()


if __name__ == "__main__":
    {"uvicorn": serve_uvicorn, "threaded": serve_threaded}[sys.argv[1]]()
