"""Batches by hand, with aio-pika and asyncpg: `python -m benchmarks.peers.batch_peer`.

It consumes our partition queues, and each batch is what has arrived meanwhile. It relies on the
order of each branch's events: a late or repeated one makes a row wrong. It knows neither a ledger
nor dead letters.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import msgspec
import uvloop

from benchmarks.load import QUEUES
from mirrorfeed.contract import environment

PREFETCH = 1000
SQL = Path(__file__).parent / "batch"
ATTEMPTS, BRANCHES, RUNS = (
    (SQL / f"{name}.sql").read_text() for name in ("attempts", "branches", "runs")
)
Rows = Iterable[Sequence[object]]
decode = msgspec.json.Decoder().decode


def rows_of(bodies: Iterable[bytes]) -> list[tuple[str, Rows]]:
    """The statements of a batch, in order, each with its rows."""
    attempts: dict[tuple[int, str], Sequence[object]] = {}
    branches: dict[int, list[Any]] = {}
    runs: set[tuple[str, ...]] = set()
    for body in bodies:
        event = decode(body)
        kind, data = event["type"], event["data"]
        started_at = data["started_at"]
        if kind == "script.run":
            runs.add((data["name"], data["hostname"], started_at, data["completed_at"]))
            continue
        branch_id = data["branch_id"]
        branch = branches.setdefault(branch_id, [branch_id, started_at, None, None, 0, None])
        branch[1] = started_at
        key = branch_id, started_at
        match kind:
            case "mirror.started":
                attempts[key] = (*key, None, None, None, None)
            case "mirror.completed":
                revision_id = data["revision_id"]
                attempts[key] = (*key, event["time"], "completed", revision_id, None)
                branch[2:] = started_at, revision_id, 0, None
            case "mirror.failed":
                reason = data["reason"]
                attempts[key] = (*key, event["time"], "failed", None, reason)
                branch[4:] = branch[4] + 1, reason
    # In the order of their keys, so that no two batches deadlock.
    return [
        (ATTEMPTS, [attempts[key] for key in sorted(attempts)]),
        (BRANCHES, [branches[key] for key in sorted(branches)]),
        (RUNS, sorted(runs)),
    ]


async def consume(broker: Any, pool: Any, queue: str) -> None:
    channel = await broker.channel()
    await channel.set_qos(prefetch_count=PREFETCH)
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    await (await channel.get_queue(queue)).consume(inbox.put)
    while True:
        batch = [await inbox.get()]
        while not inbox.empty():
            batch.append(inbox.get_nowait())
        async with pool.acquire() as connection, connection.transaction():
            for statement, rows in rows_of(message.body for message in batch):
                if columns := list(zip(*rows, strict=True)):
                    await connection.execute(statement, *columns)
        await batch[-1].ack(multiple=True)


async def main() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sys.exit)
    async with (
        await aio_pika.connect(os.environ[environment.AMQP_URL]) as broker,
        asyncpg.create_pool(
            os.environ[environment.DATABASE_URL], min_size=len(QUEUES), max_size=len(QUEUES)
        ) as pool,
    ):
        await asyncio.gather(*(consume(broker, pool, queue) for queue in QUEUES))


if __name__ == "__main__":
    uvloop.run(main())
