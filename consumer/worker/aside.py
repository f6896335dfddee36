"""Deliveries that wait for a lock, so that the others need not wait for them."""

import time
from collections.abc import Sequence

from mirrorfeed.consumer.worker.inbox import Delivery


class Aside:
    """What waits, by partition key and in order. For one thread; any may ask for `is_empty`."""

    def __init__(self) -> None:
        self.groups: dict[str, list[Delivery]] = {}
        self._since: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self.groups)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, and nothing that waited is being tried again."""
        return not self._since

    @property
    def waited_seconds(self) -> float:
        """How long the one that came first has waited."""
        now = time.monotonic()
        return now - min(self._since.values(), default=now)

    def has_waited(self, key: str) -> bool:
        """Whether it waits, or did before it was taken out to try it again."""
        return key in self._since

    def put(self, key: str, deliveries: Sequence[Delivery]) -> None:
        """Behind those of the same key that wait already. A new key comes behind all others."""
        self.groups.setdefault(key, []).extend(deliveries)
        self._since.setdefault(key, time.monotonic())

    def take(self, key: str) -> list[Delivery]:
        """Takes these out, to try them again. If they come back, they have waited all the time."""
        return self.groups.pop(key)

    def forget(self) -> None:
        """What was taken out and did not come back waits no longer."""
        self._since = {key: self._since[key] for key in self.groups}
