"""Who may see the page, and what every answer tells the browser about itself."""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from msgspec import Struct

from mirrorfeed.consumer.errors import UsageError
from mirrorfeed.consumer.web.passwords import Users

UNAUTHORISED_SECONDS = 1.0
"""How long a wrong password waits for its answer, so that guessing is slow."""
LOOPBACK_NAMES = frozenset(["localhost", "127.0.0.1", "[::1]"])
READING = frozenset(["GET", "HEAD"])
OPEN_PATHS = frozenset(["/live"])

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]
Network = IPv4Network | IPv6Network

HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        b" connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
]
"""Of every answer: nothing but this page's own script and styles, and no other page around it."""

logger = logging.getLogger(__name__)


class Access(Struct, frozen=True):
    """Who may see the page. Without `users` and `user_header` whoever can reach it may."""

    users: Users | None = None
    user_header: str | None = None
    """In which a proxy names the user that it has let in."""
    proxies: Sequence[Network] = ()
    """The proxies that are believed."""
    names: Collection[str] = ()
    """Of hosts by which the page may be called, beside those of this host alone. With a
    `user_header` and none of them it may be called by any: the proxy may pass on its own."""

    @property
    def is_open(self) -> bool:
        return self.users is None and self.user_header is None

    @property
    def is_for_names(self) -> bool:
        """Whether it matters by which name the page is called. A browser gives a password to the
        site that asked for it alone; but it may be on a trusted proxy's address."""
        return self.is_open or (self.user_header is not None and bool(self.names))


def is_loopback(host: str) -> bool:
    """Whether only this host can reach it. Of other names nobody knows what they mean tomorrow."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def networks(texts: Sequence[str]) -> list[Network]:
    """Raises UsageError for what is neither an address nor a network."""
    try:
        return [ip_network(each) for each in texts]
    except ValueError as error:
        raise UsageError(f"--trusted-proxy: {error}; give an address or a network") from error


class Gate:
    """In front of the application: lets in who may see the page, with `user` in the scope, and
    gives each answer the security headers."""

    def __init__(self, app: App, access: Access, prefix: str) -> None:
        """`prefix` is the path below which a proxy shows the page, without a slash at its end."""
        self._app = app
        self._access = access
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        scope = {**scope, "path": self._inner_path(scope["path"]), "user": None}
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send_with_headers)
        elif self._access.is_for_names and not self._is_meant(scope):
            text = "this page was called by a name that is not its own: see --allow-host\n"
            await _refuse(send_with_headers, 421, text)
        elif scope["method"] not in READING and not _is_same_origin(scope):
            text = "another site may not send forms to this one\n"
            await _refuse(send_with_headers, 403, text)
        elif await self._is_let_in(scope):
            await self._app(scope, receive, send_with_headers)
        elif self._access.users is not None:
            wanted = (b"www-authenticate", b'Basic realm="mirrorfeed", charset="UTF-8"')
            await _refuse(send_with_headers, 401, "give your name and password\n", wanted)
        else:
            text = "only a proxy that names its user is let in\n"
            await _refuse(send_with_headers, 403, text)

    def _inner_path(self, path: str) -> str:
        """A proxy may have taken the prefix away or not."""
        prefix = self._prefix
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):
            return path[len(prefix) :] or "/"
        return path

    def _is_meant(self, scope: Scope) -> bool:
        """Else another site could have its name lead here, and read the page in somebody's
        browser, or send it a user's name as a proxy does."""
        host = _header(scope, b"host").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return name in LOOPBACK_NAMES or name in self._access.names

    async def _is_let_in(self, scope: Scope) -> bool:
        access = self._access
        if access.is_open:
            return True
        if access.user_header is not None and self._is_proxy(scope):
            scope["user"] = _header(scope, access.user_header.lower().encode()) or None
            if scope["user"]:
                return True
        if access.users is None:
            return False
        name, password = _credentials(_header(scope, b"authorization"))
        if not name:
            return False
        users = access.users
        if users.remembers(name, password) or await asyncio.to_thread(users.are, name, password):
            scope["user"] = name
            return True
        logger.warning("refused: a wrong name or password", extra={"address": peer_of(scope)})
        await asyncio.sleep(UNAUTHORISED_SECONDS)
        return False

    def _is_proxy(self, scope: Scope) -> bool:
        try:
            address = ip_address(peer_of(scope))
        except ValueError:
            return False
        return any(address in network for network in self._access.proxies)


def _is_same_origin(scope: Scope) -> bool:
    """Whether a page of ours has sent this, so far as the browser tells: by Sec-Fetch-Site (W3C,
    Fetch Metadata), else, as over plain HTTP, by Origin."""
    if site := _header(scope, b"sec-fetch-site"):
        return site == "same-origin"
    host = _header(scope, b"host").lower()
    return bool(host) and _header(scope, b"origin").lower().partition("://")[2] == host


def peer_of(scope: Scope) -> str:
    """The address of whoever asks; empty if that is not known."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _header(scope: Scope, name: bytes) -> str:
    """Empty if it is missing, or there are several: nobody knows which one was meant."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _credentials(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return name, password


async def _refuse(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = text.encode()
    lengths = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*lengths, *headers]})
    await send({"type": "http.response.body", "body": body})
