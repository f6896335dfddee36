"""Who calls: no address may take all connections, and what is refused is logged by address."""

import asyncio
import logging
from collections import Counter
from ipaddress import IPv6Network, ip_address

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

CONNECTIONS_OF_ONE_ADDRESS = 128
"""A quarter of all that are served."""
IPV6_PREFIX = 64
"""One host commonly has that many bits of addresses to itself."""

logger = logging.getLogger(__name__)


class Refusals:
    """Counts what is refused, so that a flood of it does not become a flood of lines."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[str, str]] = Counter()

    def count(self, what: str, address: str) -> None:
        self._counted[what, address] += 1

    def log(self) -> None:
        """Logs what was counted since the last time."""
        for (what, address), count in self._counted.items():
            logger.warning("refused: %s, from %s: %d", what, address, count)
        self._counted.clear()


class State(ServerState):
    """What uvicorn's connections share, with what was refused."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals = Refusals()


class Connection(H11Protocol):
    """Closed at once if its address has too many."""

    server_state: State
    address: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is None:  # it is already gone
            return
        self.address = counted_address(self.client[0])
        others = sum(getattr(each, "address", None) == self.address for each in self.connections)
        if others > CONNECTIONS_OF_ONE_ADDRESS:
            what = f"connections beyond {CONNECTIONS_OF_ONE_ADDRESS}"
            self.server_state.refusals.count(what, self.address)
            transport.abort()


def counted_address(host: str) -> str:
    """The address, or the network if IPv6 gives one caller a whole network of addresses."""
    if ":" not in host:
        return host
    return str(IPv6Network((host.partition("%")[0], IPV6_PREFIX), strict=False))


def is_loopback(host: str) -> bool:
    """Whether only this host can reach it. Of other names nobody knows what they mean tomorrow."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
