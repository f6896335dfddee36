"""A worker's subscription to one queue, on a channel of its own."""

from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class Subscription:
    """Deliveries come by it, and are acked on its channel or not at all."""

    queue: str
    prefetch: int
    is_careful: bool = False
    """With one message in hand, until it is known that none of those that come was in a worker's
    hands before."""
    channel: Any = None
    """None until the broker has opened it."""
    consumer_tag: str = ""

    @property
    def is_open(self) -> bool:
        return self.channel is not None and bool(self.channel.is_open)

    def give_back(self) -> None:
        """Ends it; what is not acked goes back to the queue, in order and to its front."""
        if self.is_open:
            self.forget_consumers()
            self.channel.close()

    def forget_consumers(self) -> None:
        """Else pika cancels each subscription before it closes the channel. The broker would then
        serve the next worker while these deliveries are still out, and so out of order."""
        self.channel._cancelled.update(self.channel.consumer_tags)
