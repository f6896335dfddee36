"""Events that the consumer itself publishes: markers and canaries."""

import pika

from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope

PERSISTENT = 2


def properties_of(envelope: Envelope, user: str | None = None) -> pika.BasicProperties:
    """The AMQP properties of an event, as docs/asyncapi.yaml has them. `user` is who publishes it,
    for workers that require one."""
    return pika.BasicProperties(
        content_type=wire.CONTENT_TYPE,
        delivery_mode=PERSISTENT,
        message_id=envelope.id,
        type=envelope.event.TYPE,
        user_id=user,
    )
