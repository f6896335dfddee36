"""The baselines: publishers, consumers and commits that do the least, and the simplest ones."""

import sqlite3
import struct
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

from pika.adapters.select_connection import SelectConnection
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from benchmarks.load import QUEUES, Loop
from benchmarks.stand import Stand
from mirrorfeed.consumer import Branch, ScriptActivity
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.tables import MirrorAttempt
from mirrorfeed.contract import events, wire
from mirrorfeed.contract.events import Envelope

PREFETCH = 1000
"""Deliveries held per queue: more than the worker holds, so that this is never the limit."""
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = struct.pack("!h", -1)


def take_raw(stand: Stand, count: int) -> float:
    """Takes and acks `count` bodies, and does nothing with them.

    Like the other consumers here, returns the seconds from before it subscribes to the last ack.
    """
    return _RawConsumer(stand.amqp_url, count, lambda bodies: None).run()


def drain_raw(stand: Stand, count: int) -> float:
    """Copies `count` bodies into a table; each transaction takes as many as have arrived."""
    stand.ask("DROP TABLE IF EXISTS raw")
    stand.ask("CREATE TABLE raw (body bytea NOT NULL)")

    def commit(bodies: Sequence[bytes]) -> None:
        rows = b"".join(struct.pack("!hi", 1, len(body)) + body for body in bodies)
        cursor.execute("BEGIN")
        cursor.copy_expert(
            "COPY raw FROM STDIN (FORMAT binary)", BytesIO(COPY_HEADER + rows + COPY_TRAILER)
        )
        cursor.execute("COMMIT")

    with stand.connection.cursor() as cursor:
        return _RawConsumer(stand.amqp_url, count, commit).run()


class _RawConsumer(Loop):
    """A channel for each queue; ack after commit."""

    def __init__(
        self, amqp_url: str, count: int, commit: Callable[[Sequence[bytes]], None]
    ) -> None:
        self._remaining = count
        self._commit = commit
        self._bodies: list[bytes] = []
        self._tags: dict[Any, int] = {}  # the last delivery tag of each channel
        super().__init__(amqp_url)

    def on_open(self, connection: SelectConnection) -> None:
        self.begin()
        for queue in QUEUES:
            connection.channel(on_open_callback=partial(self._consume, queue))

    def _consume(self, queue: str, channel: Any) -> None:
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(queue, self._receive)

    def _receive(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        if not self._bodies:
            # After everything that can be read now has been read.
            self.connection.ioloop.call_later(0, self._flush)
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
            self.end()


def drain_one_by_one(stand: Stand, count: int) -> float:
    """Applies `count` events in the obvious way: a session, a commit and an ack for each."""
    engine = open_engine(stand.database_url)
    remaining = count

    def receive(channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        nonlocal remaining
        _apply(engine, wire.decode(body))
        channel.basic_ack(method.delivery_tag)
        remaining -= 1
        if not remaining:
            channel.stop_consuming()

    try:
        with stand.channel() as channel:
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
        if isinstance(event, events.ScriptRun):
            started_at, completed_at = event.started_at, event.completed_at
            run = {"date_started": started_at, "date_completed": completed_at}
            session.add(ScriptActivity(name=event.name, hostname=event.hostname, **run))
            return
        if not isinstance(event, events.MirrorEvent):
            return
        branch = session.get_one(Branch, event.branch_id, with_for_update=True)
        attempt = session.get(MirrorAttempt, (event.branch_id, event.started_at))
        if attempt is None:
            attempt = MirrorAttempt(branch_id=event.branch_id, started_at=event.started_at)
            session.add(attempt)
        known = branch.last_mirror_attempt or event.started_at
        branch.last_mirror_attempt = max(known, event.started_at)
        if isinstance(event, events.MirrorCompleted):
            attempt.outcome, attempt.finished_at = "completed", envelope.time
            attempt.revision_id = branch.last_mirrored_id = event.revision_id
            branch.last_mirrored = event.started_at
            branch.mirror_failures, branch.mirror_status_message = 0, None
        elif isinstance(event, events.MirrorFailed):
            attempt.outcome, attempt.finished_at = "failed", envelope.time
            attempt.failure_reason = branch.mirror_status_message = event.reason
            branch.mirror_failures += 1


class BareFile:
    """An SQLite file that takes the body of one call per transaction. The caller closes it."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)  # in autocommit
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(
            "CREATE TABLE event (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL)"
        )
        source, now = f"/pullers/{path.name}/{uuid4()}", datetime.now(UTC)
        # What `start_mirroring` spools, give or take a few bytes.
        self._body = wire.encode(
            Envelope(str(uuid4()), source, now, events.MirrorStarted(500, now), 1)
        )

    def commit(self, _branch_id: int) -> None:
        insert = "INSERT INTO event (body) VALUES (?)"
        self._connection.execute(insert, (self._body,)).close()

    def close(self) -> None:
        self._connection.close()
