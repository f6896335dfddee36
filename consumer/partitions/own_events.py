"""Events that the consumer itself publishes: markers and canaries, as runs of scripts."""

import re

import pika

from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope

PERSISTENT = 2
MARKER_NAME = "mirror-consumer topology"


def canary_name(number: int) -> str:
    return f"canary-{number}"


def is_own_run(name: str) -> bool:
    """Whether runs with this name are ours. They take place when an operator needs them, so nobody
    can say when the next one is due."""
    return name == MARKER_NAME or re.fullmatch(r"canary-\d+", name) is not None


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
