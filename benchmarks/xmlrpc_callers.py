"""Eight connections that call at once: `python -m benchmarks.xmlrpc_callers PORT CALLS`.

Prints how many calls a second were answered. Each connection is kept alive and sends its next call
when the last one is answered. What is sent and what comes back is handled as cheaply as can be: the
callers share the processors with the server.
"""

import selectors
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import cycle
from typing import Any
from xmlrpc.client import dumps

from benchmarks.load import BRANCHES

CONNECTIONS = 8
PATIENCE_SECONDS = 60.0
END_OF_RESPONSE = b"</methodResponse>\n"
TRUE = b"<boolean>1</boolean>"


def main(port: int, calls: int) -> None:
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for number in range(CONNECTIONS):
            connection = stack.enter_context(
                closing(socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS))
            )
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ, requests(number + 1))
        began_at = time.perf_counter()
        for key in selector.get_map().values():
            key.fileobj.sendall(next(key.data))  # type: ignore[union-attr]
        unsent = calls - CONNECTIONS
        unanswered = calls
        while unanswered:
            for key, _ in selector.select(PATIENCE_SECONDS):
                connection = key.fileobj  # type: ignore[assignment]
                receive_true(connection)
                unanswered -= 1
                if unsent:
                    connection.sendall(next(key.data))
                    unsent -= 1
        print(calls / (time.perf_counter() - began_at))


def receive_true(connection: socket.socket) -> None:
    received = b""
    while not received.endswith(END_OF_RESPONSE):
        chunk = connection.recv(4096)
        if not chunk:
            raise RuntimeError("the server closed a connection")
        received += chunk
    if TRUE not in received:
        raise RuntimeError(f"a call was not answered with True:\n{received.decode()}")


def requests(first_branch: int) -> Iterator[bytes]:
    """Attempts of one branch after the other that succeed, as Python's client sends them."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    for branch_id in cycle(range(first_branch, BRANCHES + 1, CONNECTIONS)):
        yield request("startMirroring", branch_id)
        yield request("mirrorComplete", branch_id, revision)


def request(method: str, *values: Any) -> bytes:
    body = dumps(values, method).encode()
    head = (
        "POST /RPC2 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: gzip\r\n"
        "Content-Type: text/xml\r\nUser-Agent: Python-xmlrpc/3.11\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
