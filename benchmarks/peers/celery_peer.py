"""Celery, with a node of threads per processor: `python -m benchmarks.peers.celery_peer`."""

import os
from collections.abc import Iterable
from functools import cache
from multiprocessing import Process

import msgspec
from celery import Celery
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import OperationalError

from benchmarks.peers.handler import Event, apply, database_url, run_each
from mirrorfeed.contract import environment

QUEUE = "peer.celery"
THREADS = 8

app = Celery("peer", broker=os.environ[environment.AMQP_URL])
app.conf.update(
    # From "Using Quorum Queues".
    task_default_queue=QUEUE,
    task_default_queue_type="quorum",
    task_default_exchange_type="topic",
    task_routes={"*": {"routing_key": QUEUE}},
    broker_transport_options={"confirm_publish": True},
    # From "Optimizing": for many short tasks "say 64, or 128".
    worker_prefetch_multiplier=128,
    task_acks_late=True,
    task_ignore_result=True,
    worker_enable_remote_control=False,
)


@cache
def engine() -> Engine:
    return create_engine(database_url("psycopg2"), pool_size=THREADS)


def handle(event: Event) -> None:
    with engine().begin() as connection:
        apply(connection, event)


# A task that raises is acked: without this, events are lost while the database is down.
task = app.task(
    handle, name="apply", autoretry_for=[OperationalError], max_retries=None, retry_backoff=True
)


def publish(bodies: Iterable[bytes]) -> None:
    for body in bodies:
        task.delay(msgspec.json.decode(body))


def run_node(number: int) -> None:
    options = f"--pool threads --concurrency {THREADS} --hostname {number}@%h --loglevel WARNING"
    quiet = "--without-gossip --without-mingle --without-heartbeat"
    app.worker_main(["worker", *options.split(), *quiet.split()])


if __name__ == "__main__":
    engine()  # here, so that no two threads create one; it connects on first use, after the fork
    # An idle node with threads takes ten seconds to notice SIGTERM.
    run_each(run_node, range(os.cpu_count() or 1), end=Process.kill)
