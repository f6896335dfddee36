"""Dramatiq, on quorum queues: `python -m dramatiq benchmarks.peers.dramatiq_peer`."""

import os
from collections.abc import Iterable
from typing import Any

import dramatiq
import msgspec
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from sqlalchemy import create_engine

from benchmarks.peers.handler import Event, apply, database_url
from mirrorfeed.contract import environment

QUEUE = "peer.dramatiq"
THREADS = 8
"""What its command starts in each process by default."""


class QuorumBroker(RabbitmqBroker):
    """It declares classic queues and has no setting to change that, so its users override this."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


dramatiq.set_broker(QuorumBroker(url=os.environ[environment.AMQP_URL], confirm_delivery=True))
engine = create_engine(database_url("psycopg2"), pool_size=THREADS)


def handle(event: Event) -> None:
    with engine.begin() as connection:
        apply(connection, event)


actor = dramatiq.actor(handle, queue_name=QUEUE)


def publish(bodies: Iterable[bytes]) -> None:
    for body in bodies:
        actor.send(msgspec.json.decode(body))
