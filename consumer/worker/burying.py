"""The burier thread: large messages become letters, apart from the batches.

That takes seconds for a hundred megabytes, and nothing else should wait for it.
"""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from msgspec import Struct

from mirrorfeed.consumer.apply.applier import Applier, Tally
from mirrorfeed.consumer.apply.large import LargeMessage
from mirrorfeed.consumer.apply.message import redeliveries
from mirrorfeed.consumer.worker.inbox import Subscription
from mirrorfeed.consumer.worker.patience import Patience

RETRY_TIMEOUT_SECONDS = 1200.0
"""How long a message waits for the database, or for a lock, before it goes back to the broker,
which would take it back after 30 minutes (`consumer_timeout`). Nothing else waits for it."""


class LargeDelivery(Struct, frozen=True, gc=False):
    """A message in hand of which nothing but the headers is ever read, and how to ack it."""

    pieces: Sequence[bytes]
    properties: Any
    is_redelivered: bool
    subscription: Subscription
    delivery_tag: int
    size_bytes: int
    """About how much memory it takes."""


class Burying:
    """Buries what it is given, one after another. `run` is for a thread of its own."""

    def __init__(
        self,
        applier: Applier,
        settled: Callable[[LargeDelivery, Tally], None],
        closing: threading.Event,
        retried: Callable[[], None],
    ) -> None:
        """`settled` is told what is committed, and `retried` that something is tried again. Once
        `closing` is set, nothing more is begun."""
        self._applier = applier
        self._settled = settled
        self._closing = closing
        self._patience = Patience(
            "the database, for large messages,", closing, RETRY_TIMEOUT_SECONDS, retried
        )
        self._waiting: SimpleQueue[LargeDelivery | None] = SimpleQueue()

    def put(self, delivery: LargeDelivery) -> None:
        """From any thread."""
        self._waiting.put(delivery)

    def wake(self) -> None:
        """Has `run` see that `closing` is set. From any thread."""
        self._waiting.put(None)

    def run(self) -> None:
        """Raises DBAPIError if the database stays in trouble, or the letter stays locked."""
        while (delivery := self._waiting.get()) and not self._closing.is_set():
            self._settled(delivery, self._patience(self._bury, delivery))

    def _bury(self, delivery: LargeDelivery) -> Tally:
        headers = delivery.properties.headers or {}
        deliveries = redeliveries(headers) if delivery.is_redelivered else 1
        return self._applier.bury_large(LargeMessage(delivery.pieces, headers, deliveries))
