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
    """As many events as keep it busy for three to ten seconds on two processors."""
    module: str | None = None
    """The module whose `publish` is its client; None if our client publishes for it."""
    queues: Sequence[str] = ()
    """The queues and exchanges that it declares itself; if none, it consumes our queues."""
    exchanges: Sequence[str] = ()
    lacks: str = ""
    """In what it is less than ours."""


BATCH_BACKLOG = 100_000
PEER_BACKLOG = 6_000
BATCH_LACKS = (
    "no ledger, no letters; an event that comes late or twice makes a row wrong; one that the"
    " database refuses ends it; a second process loses the order"
)
TASK_LACKS = "no ledger, no letters; loses the order"
OURS = Contestant("mirrorfeed", ("mirror-consumer", "run"), BATCH_BACKLOG)
BATCH, PIKA, DRAMATIQ, CELERY, FASTSTREAM = (
    f"benchmarks.peers.{name}_peer"
    for name in ("batch", "pika", "dramatiq", "celery", "faststream")
)
WORKERS = ("--workers", str(os.cpu_count()))
OTHERS = [
    Contestant(
        "aio-pika and asyncpg, batches",
        ("python", "-m", BATCH),
        BATCH_BACKLOG // 3,
        PIKA,
        lacks=BATCH_LACKS,
    ),
    Contestant(
        "pika, a loop for each queue",
        ("python", "-m", PIKA),
        PEER_BACKLOG,
        PIKA,
        lacks="no ledger, no letters; one bad message holds up its queue",
    ),
    Contestant(
        "Dramatiq",
        ("python", "-m", "dramatiq", DRAMATIQ),
        PEER_BACKLOG,
        DRAMATIQ,
        ("peer.dramatiq", "peer.dramatiq.DQ", "peer.dramatiq.XQ"),
        lacks=TASK_LACKS,
    ),
    Contestant(
        "Celery",
        ("python", "-m", CELERY),
        PEER_BACKLOG,
        CELERY,
        ("peer.celery", *CELERY_DELAYS),
        ("peer.celery", "celery_delayed_delivery", *CELERY_DELAYS),
        TASK_LACKS,
    ),
    Contestant(
        "FastStream",
        ("python", "-m", "faststream", "run", f"{FASTSTREAM}:app", *WORKERS),
        PEER_BACKLOG,
        FASTSTREAM,
        ("peer.faststream",),
        lacks=TASK_LACKS,
    ),
]
