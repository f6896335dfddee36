"""Closing a channel so that its queues are handed over in order."""

from typing import Any

from mirrorfeed.amqp import fast_paths

NEVER_DELIVERED = 2**64 - 1
"""A delivery tag that no delivery has."""


def begin_to_close(channel: Any) -> None:
    """The channel's close callbacks say when it is closed. Close its connection only then.

    pika cancels each subscription before it closes a channel. The broker would then serve the next
    worker while deliveries of this channel are still out, and so out of order.

    If the private names of this pika are not known, the broker closes the channel instead, and the
    channel reports PRECONDITION_FAILED as the reason. If pika closed it too, with its connection,
    it might wait forever: RabbitMQ answers by a process which it ends once the channel is closed
    from its own side, sometimes before that has written the answer (rabbit_channel.erl).
    """
    if fast_paths.are_used():
        channel._cancelled.update(channel.consumer_tags)
        channel.close()
    else:
        # A protocol error: from now on the broker ignores everything on this channel except its
        # close.
        channel.basic_ack(NEVER_DELIVERED)
