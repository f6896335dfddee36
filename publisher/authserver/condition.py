"""How an authserver is: for its callers the spool counts, not the broker."""

from mirrorfeed.contract.cached import Cached
from mirrorfeed.publisher.account import SpoolAccount
from mirrorfeed.publisher.forward.forwarder import Forwarder


class Condition:
    """Of an authserver. It is ready while its spool can be used: calls never wait for the broker,
    and a load balancer must not leave a host whose broker is away."""

    def __init__(self, forwarder: Forwarder, account: Cached[SpoolAccount]) -> None:
        self._forwarder = forwarder
        self._account = account

    def why_not_live(self) -> str | None:
        return self._forwarder.why_not_live()

    def why_not_ready(self) -> str | None:
        """Callers are told no paths."""
        return None if self._account.latest() else "its spool cannot be read: its log says why"
