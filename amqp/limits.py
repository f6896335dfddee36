"""How large a message the broker takes (`max_message_size` in its rabbitmq.conf)."""

from collections.abc import Sequence
from copy import copy

import pika
from pika.exceptions import ChannelClosedByBroker, ConnectionBlockedTimeout

from mirrorfeed.amqp.connections import PRECONDITION_FAILED, broker_channel

NOWHERE = "mirrorfeed.nowhere"
"""An exchange that does not exist, so that nothing is ever kept of what is published to it."""
BLOCKED_SECONDS = 2


def takes_message(addresses: Sequence[pika.URLParameters], size_bytes: int) -> bool | None:
    """Whether the broker takes a message of this size; None if it takes none at the moment because
    it is short of memory or disk.

    Any user may ask: RabbitMQ looks at the size first, then at the user's rights, then for the
    exchange. Each answer is also an error in the broker's log. Raises BrokerUnavailable.
    """
    impatient = [copy(each) for each in addresses]
    for each in impatient:
        each.blocked_connection_timeout = BLOCKED_SECONDS
    with broker_channel(impatient) as channel:
        channel.confirm_delivery()
        try:
            channel.basic_publish(NOWHERE, "", bytes(size_bytes))
        except ChannelClosedByBroker as refusal:
            return bool(refusal.reply_code != PRECONDITION_FAILED)
        except ConnectionBlockedTimeout:
            return None
    return True
