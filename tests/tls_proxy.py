"""What stands in front of a page and speaks TLS: it passes on the bytes, as stunnel does."""

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

import trustme


@contextmanager
def tls_in_front_of(port: int) -> Iterator[int]:
    """Passes what comes in by TLS to that port of this host; gives its own."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(99) as threads:
        proxy = _Proxy(listener, context, port, threads)
        accepting = threads.submit(proxy.accept)
        try:
            yield listener.getsockname()[1]
        finally:
            proxy.end()
            accepting.result()


class _Proxy:
    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        port: int,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._listener = listener
        self._context = context
        self._port = port
        self._threads = threads
        self._sockets: list[socket.socket] = [listener]
        self._pumps: list[Future[None]] = []

    def accept(self) -> None:
        with suppress(OSError):  # until `end` shuts it
            while True:
                plain, _ = self._listener.accept()
                self._sockets.append(plain)
                try:
                    browser = self._context.wrap_socket(plain, server_side=True)
                except OSError:  # it has thought better of it
                    continue
                page = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [browser, page]
                self._pumps.append(self._threads.submit(_pump, browser, page))
                self._pumps.append(self._threads.submit(_pump, page, browser))

    def end(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for pump in self._pumps:
            pump.result()
        for each in self._sockets:
            each.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
