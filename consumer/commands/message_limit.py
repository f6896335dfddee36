"""What `init` and `health` say of a broker that takes larger messages than it should."""

import sys
from collections.abc import Sequence

import pika

from mirrorfeed.amqp.limits import takes_message
from mirrorfeed.contract.wire import MAX_READABLE_BYTES


def advise_limit(addresses: Sequence[pika.URLParameters]) -> None:
    """Says on standard error what to set, if it is not set. Raises BrokerUnavailable."""
    if takes_message(addresses, MAX_READABLE_BYTES + 1):
        print(
            "the broker takes messages of more than 1 MiB, which no event is, and which cost the"
            f" workers memory: set max_message_size = {MAX_READABLE_BYTES} in its rabbitmq.conf"
            " (docs/security.md)",
            file=sys.stderr,
        )
