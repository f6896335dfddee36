"""The XML-RPC server for unmodified pullers of the original system.

uvicorn speaks HTTP and TLS. Here a request's body becomes a call, a group commit makes it, and its
result is the answer.
"""

import asyncio
import base64
import hmac
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any
from xmlrpc.client import Fault

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from mirrorfeed.contract import asgi
from mirrorfeed.contract.environment import newest
from mirrorfeed.contract.probes import Answer, Probes
from mirrorfeed.contract.supervision import Service, Supervisor
from mirrorfeed.publisher.authserver.callers import (
    Connection,
    Refusals,
    State,
    counted_address,
)
from mirrorfeed.publisher.authserver.calls import XmlRpcCalls, answer_of
from mirrorfeed.publisher.authserver.faults import FaultCode, response
from mirrorfeed.publisher.authserver.group_commit import GroupCommit
from mirrorfeed.publisher.client import BranchStatusClient

PROBES = "/-"
"""Where the probes' paths begin."""
OPEN_PROBES = (f"{PROBES}/live", f"{PROBES}/ready")
"""Those that need no token, which a load balancer could not give."""
MAX_BODY_BYTES = 1024 * 1024
MAX_CONNECTIONS = 512
XML = (b"content-type", b"text/xml")
BODY_SECONDS = 5.0
"""How long a client may take to send a body."""
HEAD_SECONDS = 5
"""A client that does not complete a request's head is dropped after one to two times this."""
UNAUTHORISED_SECONDS = 1.0
"""How long a wrong token waits for its 401, so that guessing is slow."""
END_SECONDS = 6
"""How long requests in hand may take once the server is told to end; longer than a body may."""

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

logger = logging.getLogger(__name__)


class Authserver(asgi.SupervisedServer):
    """uvicorn, set up for many small calls.

    If there is a `token`, it must be the password of every request (HTTP Basic, any user). If it
    came from a file, a new one there counts at once.
    """

    def __init__(
        self,
        client: BranchStatusClient,
        service: Service,
        probes: Probes,
        *,
        token: str | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        """`service` is what systemd is told of; the probes are at /-/live, /-/ready and
        /-/metrics."""
        state = State()
        app = App(XmlRpcCalls(client), GroupCommit(client), probes, token, state.refusals)
        super().__init__(server_config(app, tls, Connection), Supervisor(service))
        self.server_state: State = state

    def listen(self, host: str, port: int) -> None:
        """Serves until `should_exit` is set or a signal comes, then finishes the requests in hand.

        Raises OSError if it cannot listen there.
        """
        with asgi.listener(host, port, connections=MAX_CONNECTIONS) as sock:
            scheme = "https" if self.config.is_ssl else "http"
            logger.info("authserver listens on %s://%s/", scheme, asgi.place_of(sock, host))
            self.run([sock])
        self.server_state.refusals.log()

    async def on_look(self) -> None:
        self.server_state.refusals.log()
        await super().on_look()


def server_config(
    app: Callable[..., Awaitable[None]],
    tls: ssl.SSLContext | None = None,
    protocol: type[H11Protocol] = H11Protocol,
) -> Config:
    """uvicorn within the authserver's limits."""
    return asgi.server_config(
        app,
        connections=MAX_CONNECTIONS,
        keep_alive_seconds=HEAD_SECONDS,
        head_seconds=HEAD_SECONDS,
        end_seconds=END_SECONDS,
        protocol=protocol,
        tls=tls,
    )


class App:
    """The ASGI application: one request, one call, one answer, at any path. And the probes."""

    def __init__(
        self,
        calls: XmlRpcCalls,
        spooler: GroupCommit,
        probes: Probes,
        token: str | None,
        refusals: Refusals,
    ) -> None:
        self._calls = calls
        self._spooler = spooler
        self._probes = probes
        self._token = token
        self._token_trouble = ""
        self._refusals = refusals

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        is_look = scope["method"] in ("GET", "HEAD") and path.startswith(f"{PROBES}/")
        if is_look and path in OPEN_PROBES:
            await self._answer_probe(path, send)
        elif scope["method"] != "POST" and not is_look:
            text = b"this is an XML-RPC server: call it with POST\n"
            await answer(send, HTTPStatus.METHOD_NOT_ALLOWED, text, (b"allow", b"POST"))
        elif is_from_a_site(scope):
            self._refusals.count("403, a web page's request", counted_address(scope["client"][0]))
            text = b"a web page may not call this server: a program calls it without an Origin\n"
            await answer(send, HTTPStatus.FORBIDDEN, text)
        elif not self._is_authorised(scope):
            self._refusals.count("401, a wrong token or none", counted_address(scope["client"][0]))
            await asyncio.sleep(UNAUTHORISED_SECONDS)
            text = b"the token is missing or wrong: give it as in http://any:TOKEN@host/\n"
            wanted = (b"www-authenticate", b'Basic realm="mirrorfeed"')
            await answer(send, HTTPStatus.UNAUTHORIZED, text, wanted)
        elif is_look:
            await self._answer_probe(path, send)
        else:
            try:
                body = await body_of(scope, receive)
                call = self._calls.call_of(body)
            except Disconnected:
                return
            except Fault as fault:
                await answer(send, HTTPStatus.OK, response(fault), XML)
            else:
                if call.is_report:
                    await self._spooler.make(call)
                else:
                    call.make()
                await answer(send, HTTPStatus.OK, answer_of(call), XML)

    async def _answer_probe(self, path: str, send: Send) -> None:
        found: Answer = self._probes.answer(path.removeprefix(PROBES))
        kind = b"content-type", found.content_type.encode()
        await answer(send, found.status, found.body, kind)

    def _is_authorised(self, scope: Message) -> bool:
        token = self._current_token()
        if token is None:
            return True
        scheme, _, credentials = header(scope, b"authorization").partition(b" ")
        try:
            password = base64.b64decode(credentials).partition(b":")[2]
        except ValueError:
            return False
        return scheme.lower() == b"basic" and hmac.compare_digest(password, token.encode())

    def _current_token(self) -> str | None:
        """As its file has it, if it has one; if that cannot be read now, as it was."""
        if self._token is not None:
            try:
                self._token = newest(self._token)
                self._token_trouble = ""
            except ValueError as error:
                if str(error) != self._token_trouble:
                    logger.warning("%s; the last token it had still counts", error)
                self._token_trouble = str(error)
        return self._token


class Disconnected(Exception):
    """The client is gone: nobody is waiting for an answer."""


async def body_of(scope: Message, receive: Receive) -> bytes:
    """Raises Disconnected, and Fault for a body that is too large or too slow."""
    announced = int(header(scope, b"content-length") or 0)  # uvicorn accepts only digits
    body = bytearray()
    is_complete = False
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while not is_complete and max(len(body), announced) <= MAX_BODY_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                body += message["body"]
                is_complete = not message["more_body"]
    except TimeoutError:
        raise Fault(
            FaultCode.TRANSPORT, f"the request was not complete after {BODY_SECONDS:g} s"
        ) from None
    if max(len(body), announced) > MAX_BODY_BYTES:
        raise Fault(
            FaultCode.TRANSPORT,
            f"the request is too large, {max(len(body), announced)} bytes or more: send at most"
            f" {MAX_BODY_BYTES}",
        )
    return bytes(body)


def header(scope: Message, name: bytes) -> bytes:
    """The value of a header that appears once; empty if it is missing."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers.get(name, b"")


def is_from_a_site(scope: Message) -> bool:
    """Whether a browser sends this for a web page, which may be anybody's: with an Origin (RFC
    6454), as each POST of a page has, or a Sec-Fetch-Site (W3C, Fetch Metadata) that says so."""
    is_named = any(name == b"origin" for name, _ in scope["headers"])
    return is_named or header(scope, b"sec-fetch-site") not in (b"", b"none", b"same-origin")


async def answer(
    send: Send, status: HTTPStatus, body: bytes, *headers: tuple[bytes, bytes]
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})
