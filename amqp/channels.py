"""Closing a channel so that its queues are handed over in order."""

from typing import Any

from mirrorfeed.amqp import fast_paths

NEVER_DELIVERED = 2**64 - 1
"""A delivery tag that no delivery has."""


def forget_consumers(channel: Any) -> None:
    """Call this just before the channel, or its connection, is closed.

    pika cancels each subscription before it closes a channel. The broker would then serve the next
    worker while deliveries of this channel are still out, and so out of order.

    If the private names of this pika are not known, the broker closes the channel instead, and the
    channel reports PRECONDITION_FAILED as the reason.
    """
    if fast_paths.are_used():
        channel._cancelled.update(channel.consumer_tags)
    else:
        # A protocol error: from now on the broker ignores everything on this channel except its
        # close, so it never acts on pika's cancellations.
        channel.basic_ack(NEVER_DELIVERED)
