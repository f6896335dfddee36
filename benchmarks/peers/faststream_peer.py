"""FastStream on RabbitMQ, coroutines over asyncpg: `python -m faststream run …faststream_peer:app`.

A process handles as many events at a time as its prefetch allows.
"""

import asyncio
import os
from collections.abc import Iterable

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.peers.handler import Event, apply, database_url
from mirrorfeed.contract import environment

QUEUE = RabbitQueue("peer.faststream", queue_type=QueueType.QUORUM, durable=True)
PREFETCH = 20

broker = RabbitBroker(
    os.environ[environment.AMQP_URL],
    default_channel=Channel(prefetch_count=PREFETCH, on_return_raises=True),
    apply_types=False,  # no validation: the handler takes the JSON parser's result
    logger=None,  # otherwise it logs two lines per event
)
app = FastStream(broker, logger=None)
engine = create_async_engine(database_url("asyncpg"), pool_size=PREFETCH)


async def handle(event: Event) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(apply, event)


# By default, an event whose handler raises is rejected, and so lost.
broker.subscriber(QUEUE, ack_policy=AckPolicy.NACK_ON_ERROR)(handle)


def publish(bodies: Iterable[bytes]) -> None:
    asyncio.run(_publish(bodies))


async def _publish(bodies: Iterable[bytes]) -> None:
    async with broker:
        await broker.declare_queue(QUEUE)
        for body in bodies:
            await broker.publish(
                body, QUEUE, content_type="application/json", persist=True, mandatory=True
            )
