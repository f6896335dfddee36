"""Who is compared: how each is started, and what publishes for it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import pika

PEERS = "benchmarks.peers"
CELERY_DELAYS = tuple(f"celery_delayed_{level}" for level in range(28))
"""Queues and exchanges that a node declares for tasks to be run later."""


@dataclass(frozen=True)
class Contestant:
    """Something that takes events from queues to rows."""

    name: str
    command: Sequence[str]
    backlog: int
    """Events that keep it busy for five to ten seconds on two processors."""
    queues: Sequence[str] = ()
    """Those that it declares itself."""
    module: str | None = None
    """Whose `publish` is its client; None where that is ours."""


OURS = Contestant("mirrorfeed", ("mirror-consumer", "run"), 150_000)
OTHERS = [
    Contestant(
        "pika, a loop for each queue",
        ("python", "-m", f"{PEERS}.pika_peer"),
        10_000,
        module=f"{PEERS}.pika_peer",
    ),
    Contestant(
        "Dramatiq",
        ("python", "-m", "dramatiq", f"{PEERS}.dramatiq_peer"),
        10_000,
        ("peer.dramatiq", "peer.dramatiq.DQ", "peer.dramatiq.XQ"),
        f"{PEERS}.dramatiq_peer",
    ),
    Contestant(
        "Celery",
        ("python", "-m", f"{PEERS}.celery_peer"),
        8_000,
        ("peer.celery", *CELERY_DELAYS),
        f"{PEERS}.celery_peer",
    ),
    Contestant(
        "FastStream",
        (
            *("python", "-m", "faststream", "run", f"{PEERS}.faststream_peer:app"),
            *("--workers", str(os.cpu_count())),
        ),
        10_000,
        ("peer.faststream",),
        f"{PEERS}.faststream_peer",
    ),
]


def forget_peers(amqp_url: str) -> None:
    """Deletes what they have declared, if anything."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        for other in OTHERS:
            for queue in other.queues:
                channel.queue_delete(queue)
        for exchange in ("peer.celery", "celery_delayed_delivery", *CELERY_DELAYS):
            channel.exchange_delete(exchange)
