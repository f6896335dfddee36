"""The loop you would write with pika alone, one per queue: `python -m benchmarks.peers.pika_peer`.

It consumes our partition queues, and so keeps the order of each branch.
"""

import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

import msgspec
import pika
from sqlalchemy import create_engine

from benchmarks.load import QUEUES
from benchmarks.peers.handler import apply, database_url, run_each
from mirrorfeed.contract import environment, routing, wire

PREFETCH = 100


def publish(bodies: Iterable[bytes]) -> None:
    with _broker() as broker:
        channel = broker.channel()
        channel.confirm_delivery()
        for body in bodies:
            envelope = wire.decode(body)
            channel.basic_publish(
                routing.EVENTS_EXCHANGE,
                routing.routing_key(envelope.event.TYPE, envelope.partition_key),
                body,
                pika.BasicProperties(delivery_mode=2),
                mandatory=True,
            )


def consume(queue: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    engine = create_engine(database_url("psycopg2"))

    def receive(channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        with engine.begin() as connection:
            apply(connection, msgspec.json.decode(body))
        channel.basic_ack(method.delivery_tag)

    with _broker() as broker:
        channel = broker.channel()
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(queue, receive)
        channel.start_consuming()


def _broker() -> Any:
    return pika.BlockingConnection(pika.URLParameters(os.environ[environment.AMQP_URL]))


if __name__ == "__main__":
    run_each(consume, QUEUES)
