"""What a session has received and not acked yet."""

from collections import Counter
from collections.abc import Sequence

from mirrorfeed.consumer.worker.burying import LargeDelivery
from mirrorfeed.consumer.worker.inbox import Delivery
from mirrorfeed.consumer.worker.progress import Progress

MAX_IN_HAND_BYTES = 128 * 1024 * 1024
"""Events as pullers send them take a twentieth of this at most: `prefetch` counts them. So this is
room for large messages. The more there is, the less the others wait for them."""


class InHand:
    """Counts what is in hand, and acks it. For the I/O thread."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.size_bytes = 0
        """To be raised for each delivery that is not large. This is done for every message."""
        self._large = 0

    @property
    def is_too_much(self) -> bool:
        """Whether nothing more should be received for now."""
        return self.size_bytes > MAX_IN_HAND_BYTES

    @property
    def has_large(self) -> bool:
        return self._large > 0

    def take_large(self, delivery: LargeDelivery) -> None:
        self.size_bytes += delivery.size_bytes
        self._large += 1
        delivery.subscription.large_in_hand += 1

    def settle_up_to(self, batch: Sequence[Delivery]) -> None:
        """One ack per channel: a batch has the first deliveries of each channel, without a gap. But
        there may be one if large messages of that channel are in hand."""
        for delivery in {each.subscription: each for each in batch}.values():
            subscription = delivery.subscription
            if subscription.large_in_hand:
                for each in batch:
                    if each.subscription is subscription:
                        _ack(each)
            else:
                _ack(delivery, multiple=True)
        self._let_go(batch)

    def settle_each(self, deliveries: Sequence[Delivery]) -> None:
        """Others that came before these are still in hand."""
        for delivery in deliveries:
            _ack(delivery)
        self._let_go(deliveries)

    def settle_large(self, delivery: LargeDelivery) -> None:
        self._large -= 1
        delivery.subscription.large_in_hand -= 1
        _ack(delivery)
        self._let_go([delivery])

    def _let_go(self, deliveries: Sequence[Delivery | LargeDelivery]) -> None:
        self.size_bytes -= sum(delivery.size_bytes for delivery in deliveries)
        for subscription, count in Counter(each.subscription for each in deliveries).items():
            subscription.settled += count
            self._progress.settled(subscription.queue, count)


def _ack(delivery: Delivery | LargeDelivery, *, multiple: bool = False) -> None:
    subscription = delivery.subscription
    if subscription.is_open:
        subscription.channel.basic_ack(delivery.delivery_tag, multiple=multiple)
