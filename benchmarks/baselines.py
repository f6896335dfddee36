"""What the worker is compared with: consumers that do the least, and the simplest."""

import struct
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from io import BytesIO
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from benchmarks.stand import QUEUES, Stand
from mirrorfeed.consumer import Branch, ScriptActivity
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.tables import MirrorAttempt
from mirrorfeed.contract.events import Envelope, MirrorCompleted, MirrorFailed, ScriptRun
from mirrorfeed.contract.wire import decode

PREFETCH = 1000
"""Of each queue in hand: more than the worker has, so that it is never what limits."""
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = struct.pack("!h", -1)


def take_raw(stand: Stand, count: int) -> float:
    """Takes and acks `count` bodies, and does nothing with them.

    Returns the seconds from before it subscribes until the last ack.
    """
    consumer = _RawConsumer(stand.amqp_url, count, lambda bodies: None)
    consumer.run()
    return consumer.seconds


def drain_raw(stand: Stand, count: int) -> float:
    """Copies `count` bodies into a table, as many a transaction as have arrived.

    Returns the seconds from before it subscribes until the last commit.
    """
    with closing(stand.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS raw")
        cursor.execute("CREATE TABLE raw (body bytea NOT NULL)")
        connection.autocommit = False

        def commit(bodies: Sequence[bytes]) -> None:
            rows = b"".join(struct.pack("!hi", 1, len(body)) + body for body in bodies)
            cursor.copy_expert(
                "COPY raw FROM STDIN (FORMAT binary)", BytesIO(COPY_HEADER + rows + COPY_TRAILER)
            )
            connection.commit()

        consumer = _RawConsumer(stand.amqp_url, count, commit)
        consumer.run()
        return consumer.seconds


class _RawConsumer:
    """One thread, one connection, a channel for each queue; ack after commit."""

    def __init__(self, amqp_url: str, count: int, commit: Any) -> None:
        self._remaining = count
        self._commit = commit
        self._bodies: list[bytes] = []
        self._tags: dict[Any, int] = {}  # the last delivery tag of each channel
        self.seconds = 0.0
        self._connection = SelectConnection(
            pika.URLParameters(amqp_url),
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
        )

    def run(self) -> None:
        self._connection.ioloop.start()
        if self._remaining:
            raise RuntimeError(f"the connection ended with {self._remaining} events to come")

    def _on_open(self, connection: SelectConnection) -> None:
        self._began_at = time.perf_counter()
        for queue in QUEUES:
            connection.channel(on_open_callback=partial(self._consume, queue))

    def _consume(self, queue: str, channel: Any) -> None:
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(queue, self._receive)

    def _receive(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        if not self._bodies:
            # After what can be read now has been read.
            self._connection.ioloop.call_later(0, self._flush)
        self._bodies.append(body)
        self._tags[channel] = method.delivery_tag

    def _flush(self) -> None:
        self._commit(self._bodies)
        for channel, tag in self._tags.items():
            channel.basic_ack(tag, multiple=True)
        self._remaining -= len(self._bodies)
        self._bodies.clear()
        self._tags.clear()
        if not self._remaining:
            self.seconds = time.perf_counter() - self._began_at
            self._connection.close()

    def _on_end(self, _connection: SelectConnection, _error: Exception) -> None:
        self._connection.ioloop.stop()


def drain_one_by_one(stand: Stand, count: int) -> float:
    """Applies `count` events as one would write it first: a session, a commit, an ack for each.

    Returns the seconds from before it subscribes until the last ack.
    """
    engine = open_engine(stand.database_url)
    remaining = count

    def receive(channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        nonlocal remaining
        _apply(engine, decode(body))
        channel.basic_ack(method.delivery_tag)
        remaining -= 1
        if not remaining:
            channel.stop_consuming()

    try:
        with pika.BlockingConnection(pika.URLParameters(stand.amqp_url)) as connection:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=PREFETCH)
            began_at = time.perf_counter()
            for queue in QUEUES:
                channel.basic_consume(queue, receive)
            channel.start_consuming()
            return time.perf_counter() - began_at
    finally:
        engine.dispose()


def _apply(engine: Engine, envelope: Envelope) -> None:
    event = envelope.event
    with Session(engine) as session, session.begin():
        if isinstance(event, ScriptRun):
            session.add(
                ScriptActivity(
                    name=event.name,
                    hostname=event.hostname,
                    date_started=event.started_at,
                    date_completed=event.completed_at,
                )
            )
            return
        branch = session.get_one(Branch, event.branch_id, with_for_update=True)
        attempt = session.get(MirrorAttempt, (event.branch_id, event.started_at))
        if attempt is None:
            attempt = MirrorAttempt(branch_id=event.branch_id, started_at=event.started_at)
            session.add(attempt)
        branch.last_mirror_attempt = _later(branch.last_mirror_attempt, event.started_at)
        if isinstance(event, MirrorCompleted):
            attempt.outcome, attempt.finished_at = "completed", envelope.time
            attempt.revision_id = branch.last_mirrored_id = event.revision_id
            branch.last_mirrored = event.started_at
            branch.mirror_failures, branch.mirror_status_message = 0, None
        elif isinstance(event, MirrorFailed):
            attempt.outcome, attempt.finished_at = "failed", envelope.time
            attempt.failure_reason = branch.mirror_status_message = event.reason
            branch.mirror_failures += 1


def _later(known: datetime | None, new: datetime) -> datetime:
    return new if known is None else max(known, new)
