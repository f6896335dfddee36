"""How long a client's call takes, beside a bare commit of the same bytes in the same folder."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from benchmarks.load import BRANCHES
from benchmarks.report import Row, Target, quantile
from benchmarks.stand import PARTITIONS, Stand
from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer.partitions.topology import declare_topology
from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope, MirrorStarted
from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.spool import Spool
from sandbox import wait_until
from sandbox.rabbitmq import PrivateRabbitMQ

SUBJECT = "client, one call"
CALLS = 3000
BLOCK = 100
"""Calls of one kind in a row, before it is the next kind's turn."""
BLOCKS_OF_A_DEATH = 15
ROUNDS = 3
NOBODY_LISTENS = "amqp://guest:guest@127.0.0.1:1/%2F"
Call = Callable[[int], None]


def measure(stand: Stand) -> list[Row]:
    stand.clear()
    seconds: dict[str, list[list[float]]] = {"bare": [], "up": [], "down": [], "dying": []}
    with PrivateRabbitMQ() as mortal:
        with broker_channel(connection_parameters(mortal.url)) as channel:
            declare_topology(channel, PARTITIONS)
        for number in range(ROUNDS):
            for kind, durations in _round(stand, number).items():
                seconds[kind].append(durations)
            seconds["dying"].append(_through_a_death(stand, number, mortal))
    rows: list[Row] = []
    for percent, targets in ((50, []), (99, [Target("≤", 3)])):
        milliseconds = {
            kind: [1000 * quantile(durations, percent) for durations in rounds]
            for kind, rounds in seconds.items()
        }
        bare = Row(SUBJECT, f"bare commit, p{percent}", "ms", milliseconds["bare"])
        rows.append(bare)
        for kind in ("up", "down"):
            what = f"start_mirroring, broker {kind}, p{percent}"
            rows.append(Row(SUBJECT, what, "ms", milliseconds[kind], bare, targets))
        up = rows[-2]
        what = f"start_mirroring, broker dying, p{percent}"
        keeps = [Target("≤", 1.2)] if targets else []
        rows.append(Row(SUBJECT, what, "ms", milliseconds["dying"], up, keeps))
    return rows


def _round(stand: Stand, number: int) -> dict[str, list[float]]:
    """The seconds of each call, by kind."""
    spool_up = stand.folder / f"up-{number}.db"
    spool_down = stand.folder / f"down-{number}.db"
    up = BranchStatusClient(spool_up, stand.amqp_url)
    down = BranchStatusClient(spool_down, NOBODY_LISTENS)
    durations: dict[str, list[float]] = {"bare": [], "up": [], "down": []}
    with closing(up), closing(down), closing(bare_file(stand.folder / f"bare-{number}.db")) as bare:
        insert = "INSERT INTO event (body) VALUES (?)"
        view = Spool(spool_up)
        body = body_of(view.status().source)
        kinds: dict[str, Call] = {
            "bare": lambda _: bare.execute(insert, (body,)).close(),
            "up": up.start_mirroring,
            "down": down.start_mirroring,
        }

        def all_sent() -> bool:
            return not view.pending(after=0, limit=1)

        for _ in range(CALLS // BLOCK):
            for kind, call in kinds.items():
                durations[kind] += _time(call)
                # What one kind left to do shall not slow the next one down.
                wait_until(all_sent, 10, "the forwarder to send what was spooled")
        view.close()
    return durations


def _through_a_death(stand: Stand, number: int, broker: PrivateRabbitMQ) -> list[float]:
    """The seconds of each call before, while and after the broker's node is killed."""
    broker.start()
    durations: list[float] = []
    spool = stand.folder / f"dying-{number}.db"
    with closing(BranchStatusClient(spool, broker.url)) as client, closing(Spool(spool)) as view:
        client.start_mirroring(1)
        wait_until(lambda: not view.pending(after=0, limit=1), 10, "a connection")
        for block in range(BLOCKS_OF_A_DEATH):
            if block == BLOCKS_OF_A_DEATH // 3:
                broker.kill()
            durations += _time(client.start_mirroring)
    return durations


def _time(call: Call) -> list[float]:
    durations = []
    for number in range(BLOCK):
        branch_id = number * 7 % BRANCHES + 1
        began_at = time.perf_counter()
        call(branch_id)
        durations.append(time.perf_counter() - began_at)
    return durations


def bare_file(path: Path) -> sqlite3.Connection:
    """In autocommit: each statement is a transaction."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE event (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    return connection


def body_of(source: str) -> bytes:
    """What `start_mirroring` spools, to a byte or two."""
    now = datetime.now(UTC)
    return wire.encode(Envelope(str(uuid4()), source, now, MirrorStarted(500, now), 1))
