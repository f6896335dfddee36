"""The contestants: how each is started, and what publishes for it.

To add one, add an entry here and a module that consumes when its command is run. The addresses of
the servers are in its environment, as they are for `mirror-consumer`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

CELERY_DELAYS = tuple(f"celery_delayed_{level}" for level in range(28))
"""Queues and exchanges that a node declares for tasks that run later."""


@dataclass(frozen=True)
class Contestant:
    """Something that turns events in queues into rows."""

    name: str
    command: Sequence[str]
    backlog: int
    """As many events as keep it busy for five to ten seconds on two processors."""
    module: str | None = None
    """The module whose `publish` is its client; None if our client publishes for it."""
    queues: Sequence[str] = ()
    """The queues and exchanges that it declares itself."""
    exchanges: Sequence[str] = ()


OURS = Contestant("mirrorfeed", ("mirror-consumer", "run"), 150_000)
PIKA, DRAMATIQ, CELERY, FASTSTREAM = (
    f"benchmarks.peers.{name}_peer" for name in ("pika", "dramatiq", "celery", "faststream")
)
WORKERS = ("--workers", str(os.cpu_count()))
OTHERS = [
    Contestant("pika, a loop for each queue", ("python", "-m", PIKA), 10_000, PIKA),
    Contestant(
        "Dramatiq",
        ("python", "-m", "dramatiq", DRAMATIQ),
        10_000,
        DRAMATIQ,
        ("peer.dramatiq", "peer.dramatiq.DQ", "peer.dramatiq.XQ"),
    ),
    Contestant(
        "Celery",
        ("python", "-m", CELERY),
        8_000,
        CELERY,
        ("peer.celery", *CELERY_DELAYS),
        ("peer.celery", "celery_delayed_delivery", *CELERY_DELAYS),
    ),
    Contestant(
        "FastStream",
        ("python", "-m", "faststream", "run", f"{FASTSTREAM}:app", *WORKERS),
        10_000,
        FASTSTREAM,
        ("peer.faststream",),
    ),
]
