"""Closing a channel so that its queues are handed over in order."""

from typing import Any

from mirrorfeed.amqp import fast_paths

NEVER_DELIVERED = 2**64 - 1
"""A delivery tag that no delivery has."""


def forget_consumers(channel: Any) -> None:
    """Call this just before the channel, or its connection, is closed.

    pika cancels each subscription before it closes a channel. The broker would then serve the next
    worker while deliveries of this channel are still out, and so out of order.

    With a pika whose private names are not known the broker closes the channel, and the reason that
    the channel gives for its end is a PRECONDITION_FAILED.
    """
    if fast_paths.are_used():
        channel._cancelled.update(channel.consumer_tags)
    else:
        # An error of the protocol: from here on the broker takes nothing on this channel but its
        # end, so it never sees pika's cancellations.
        channel.basic_ack(NEVER_DELIVERED)
