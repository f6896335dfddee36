"""Serves `/live`, `/ready` and `/metrics` on a port of their own, beside what a service does.

Each connection has a thread, one request and a few seconds, whatever its client does; when there
are too many, the oldest one makes room. So a client that is slow keeps nobody else waiting.
"""

import logging
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from time import monotonic
from typing import Any

from mirrorfeed.contract.events import shown
from mirrorfeed.contract.probes import Answer, Probes

MAX_CONNECTIONS = 16
CONNECTION_SECONDS = 5.0
"""How long a client may take for its request and the answer."""
LOOK_SECONDS = 0.5

logger = logging.getLogger(__name__)


@contextmanager
def serving(address: str, probes: Probes) -> Iterator[int]:
    """Answers at HOST:PORT during the block, in threads of its own; gives the port, which is a free
    one for port 0.

    Raises ValueError if the address cannot be read, or nobody can listen there.
    """
    host, port = listening_address(address)
    try:
        server = _ProbeServer(host, port, probes)
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host} port {port}: {error.strerror}; give another --http"
        ) from error
    with server:
        port = server.server_address[1]
        shown_host = f"[{host}]" if ":" in host else host
        logger.info("answering", extra={"at": f"http://{shown_host}:{port}/"})
        thread = threading.Thread(
            target=server.serve_forever, args=(LOOK_SECONDS,), name="probes", daemon=True
        )
        _start_without_signals(thread)
        try:
            yield port
        finally:
            server.shutdown()
            thread.join()


def listening_address(text: str) -> tuple[str, int]:
    """Reads HOST:PORT. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]/]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65_535:
        raise ValueError(
            f"--http {shown(text)} is not HOST:PORT: give it as 127.0.0.1:9470 or [::1]:9470, or,"
            " to answer other hosts, too, 0.0.0.0:9470"
        )
    return match[1] or match[2], int(match[3])


def _start_without_signals(thread: threading.Thread) -> None:
    """A signal that a service waits for must not go to a thread that does not know of it. Threads
    inherit which signals they do not take."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _ProbeServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, host: str, port: int, probes: Probes) -> None:
        self.probes = probes
        self._ends_at: dict[Any, float] = {}
        """When each connection ends at the latest, the oldest first."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's also asks for the host's name, which may hang

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._ends_at) >= MAX_CONNECTIONS:
            oldest = next(iter(self._ends_at.copy()))
            self._ends_at.pop(oldest, None)
            _hang_up(oldest)
        self._ends_at[request] = monotonic() + CONNECTION_SECONDS
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._ends_at.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        now = monotonic()
        for request, ends_at in self._ends_at.copy().items():
            if ends_at <= now:
                _hang_up(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of ours; nothing else is expected."""
        logger.debug("a probe was not answered", exc_info=True)


def _hang_up(request: socket.socket) -> None:
    """Its thread, which may wait for the client, notices and ends it."""
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One request, one answer."""

    server: _ProbeServer
    timeout = CONNECTION_SECONDS
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d\n"

    def do_GET(self) -> None:
        self._send(self.server.probes.answer(self.path))

    def do_HEAD(self) -> None:
        self._send(self.server.probes.answer(self.path))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        return "mirrorfeed"

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Without the message, which quotes the request."""
        super().send_error(code)

    def log_message(self, *_: Any) -> None:
        """What asks every few seconds is not worth a line."""
