"""Where deliveries wait between the thread that receives them and the one that applies them."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from mirrorfeed.amqp.channels import begin_to_close
from mirrorfeed.consumer.apply.message import BYTES_PER_CHARACTER, Message

MAX_BATCH_BYTES = 4 * 1024 * 1024
"""This limits the worker's memory: a batch is held several times over while it becomes SQL."""


@dataclass(eq=False)
class Subscription:
    """One queue that is consumed, on its own channel: its deliveries are acked only there."""

    queue: str
    prefetch: int
    channel: Any = None
    """None until the broker has opened it."""
    is_given_back: bool = False
    received: int = 0
    """How many deliveries there were, those of earlier subscriptions to the queue included."""
    settled: int = 0
    """How many of them are not in hand any more."""
    large_in_hand: int = 0
    """How many of its deliveries are being buried apart from the batches."""

    @property
    def is_open(self) -> bool:
        return self.channel is not None and bool(self.channel.is_open) and not self.is_given_back

    @property
    def in_hand(self) -> int:
        """How many of its deliveries are not acked yet."""
        return self.received - self.settled

    def give_back(self) -> None:
        """Ends it; unacked messages go back to the front of the queue, in order."""
        is_open, self.is_given_back = self.is_open, True
        if is_open:
            begin_to_close(self.channel)


class Suspect(Struct, frozen=True, gc=False):
    """A message that was delivered before, not decoded yet: reading it may kill the worker."""

    body: bytes
    properties: Any

    @property
    def decoded_bytes(self) -> int:
        """How much memory it may take beside the body, once it is decoded."""
        return len(self.body) * BYTES_PER_CHARACTER


class Delivery(Struct, frozen=True, gc=False):
    """A message in hand, and how to ack it."""

    message: Message | Suspect
    subscription: Subscription
    delivery_tag: int
    size_bytes: int
    """About how much memory it takes."""
    is_suspect: bool = False
    """Whether the message is a Suspect. Asked for several times for every message."""


class Inbox:
    """A queue that gives out natural batches: what has arrived, never waiting for more."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._waiting: deque[Delivery] = deque()
        self._changed = threading.Condition()
        self._is_taker_waiting = False
        self._in_hand = 0
        self._closed = False

    def put(self, delivery: Delivery) -> None:
        """Takes no lock while batches are being applied, because that would cost more than all the
        rest: `take` announces that it will wait before it looks one last time."""
        self._waiting.append(delivery)
        if self._is_taker_waiting:
            with self._changed:
                self._changed.notify()

    def take(self, timeout_seconds: float | None = None) -> list[Delivery]:
        """The next batch, in order of arrival; empty if nothing comes in time, and once the inbox
        is closed.

        Suspects are never in one batch with others, so that they can take nothing else with them.
        """
        with self._changed:
            self._in_hand = 0
            self._is_taker_waiting = True
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout_seconds)
            self._is_taker_waiting = False
            batch: list[Delivery] = []
            size_bytes = 0
            while self._waiting and not self._closed and len(batch) < self._batch_size:
                following = self._waiting[0]
                size_bytes += following.size_bytes
                if batch and (
                    following.is_suspect != batch[0].is_suspect or size_bytes > MAX_BATCH_BYTES
                ):
                    break
                batch.append(self._waiting.popleft())
            self._in_hand = len(batch)
            return batch

    def close(self) -> None:
        """Gives out nothing more; waiting deliveries go back to the broker unacked."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def is_closed(self) -> bool:
        return self._closed

    @property
    def is_idle(self) -> bool:
        with self._changed:
            return not self._waiting and not self._in_hand
