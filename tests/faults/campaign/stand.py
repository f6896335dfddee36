"""Everything a campaign runs: servers, proxies before them, workers and pullers."""

import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from pika.adapters.blocking_connection import BlockingChannel
from sqlalchemy import Engine, make_url

from mirrorfeed.amqp.connections import BrokerUnavailable, broker_channel, connection_parameters
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.contract import environment
from mirrorfeed.contract.events import ScriptRun
from mirrorfeed.publisher.spool import Spool
from sandbox import SandboxError
from sandbox.cluster import PrivateCluster
from sandbox.folder import PrivateFolder
from sandbox.ports import LOOPBACK
from sandbox.postgresql import PrivatePostgreSQL
from sandbox.rabbitmq import PrivateRabbitMQ
from tests.faults.campaign.board import Board
from tests.faults.campaign.history import branches
from tests.faults.campaign.proxy import Proxy
from tests.faults.campaign.schedule import MAX_SKEW_SECONDS, PARTITIONS, PULLERS, WORKERS, Way
from tests.faults.campaign.services import Service, command, module
from tests.servers import register_branches

HEARTBEAT_SECONDS = 5
"""Instead of 30: what is frozen or cut off is given up within seconds."""
DISK_BYTES_PER_CALL = 4000
DISK_SPARE_BYTES = 64 * 1024**2
# In the transaction of the append: exactly what the spool took, also from a call that was killed.
KEEP_WHAT_IS_TAKEN = """
    CREATE TABLE taken (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TRIGGER keep AFTER INSERT ON event
    BEGIN INSERT OR IGNORE INTO taken VALUES (new.sequence, new.body); END;
"""


@dataclass(frozen=True)
class Puller:
    """A puller process, its spool and what it says of itself."""

    service: Service
    spool: Path
    board: Board

    def taken(self) -> list[bytes]:
        """The bodies of all events that the spool ever took, in order."""
        with closing(sqlite3.connect(self.spool)) as connection:
            return [
                body for (body,) in connection.execute("SELECT body FROM taken ORDER BY sequence")
            ]

    def confirmed(self, random: Random, count: int) -> list[bytes]:
        """Some of the events that the broker has confirmed."""
        with closing(sqlite3.connect(self.spool)) as connection:
            (until,) = connection.execute(
                "SELECT coalesce((SELECT min(sequence) - 1 FROM event), last_sequence) FROM source"
            ).fetchone()
            sequences = [random.randint(1, until) for _ in range(count if until else 0)]
            query = "SELECT body FROM taken WHERE sequence = ?"
            return [connection.execute(query, (each,)).fetchone()[0] for each in sequences]


@dataclass
class Stand:
    """What faults happen to. Admin access goes past the proxies."""

    calls: int
    folder: Path
    nodes: Sequence[PrivateRabbitMQ]
    cluster: PrivateCluster | None
    database: PrivatePostgreSQL
    engine: Engine
    proxies: dict[Way, list[Proxy]]
    """One before each server that a way leads to."""
    disk: Path | None
    """A small file system under the first puller's spool, if this user may mount one."""
    pullers: list[Puller] = field(default_factory=list)
    workers: list[Service] = field(default_factory=list)
    probes: list[ScriptRun] = field(default_factory=list)
    """Script runs that the campaign published itself."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set if the campaign ends early: then lasting faults end too."""

    @property
    def services(self) -> list[Service]:
        return [*self.workers, *(puller.service for puller in self.pullers)]

    @property
    def reported(self) -> int:
        """How many calls have returned."""
        return sum(puller.board.returned for puller in self.pullers)

    @contextmanager
    def admin_channel(self) -> Iterator[BlockingChannel]:
        """A channel to a node that answers. Raises BrokerUnavailable."""
        with ExitStack() as stack:
            yield self._first_channel(stack)

    def _first_channel(self, stack: ExitStack) -> BlockingChannel:
        for node in self.nodes:
            try:
                return stack.enter_context(broker_channel(connection_parameters(node.url)))
            except BrokerUnavailable:
                if node is self.nodes[-1]:
                    raise
        raise AssertionError("there is no node")

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """One of the installed commands, past the proxies."""
        variables = {
            environment.AMQP_URL: self.nodes[0].url,
            environment.DATABASE_URL: self.database.url,
            environment.PARTITIONS: str(PARTITIONS),
        }
        return subprocess.run(
            command(*arguments),
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def variables(self, broker_side: Way) -> dict[str, str]:
        """The environment of a process that goes this way to the broker."""
        (database,) = self.proxies[Way.WORKERS_TO_DATABASE]
        url = make_url(self.database.url).set(host=LOOPBACK, port=database.port)
        return {
            environment.AMQP_URL: ",".join(
                f"amqp://guest:guest@{LOOPBACK}:{broker.port}/%2F?heartbeat={HEARTBEAT_SECONDS}"
                for broker in self.proxies[broker_side]
            ),
            environment.DATABASE_URL: url.render_as_string(hide_password=False),
            environment.PARTITIONS: str(PARTITIONS),
        }


@contextmanager
def open_stand(seed: int, *, calls: int, is_cluster: bool) -> Iterator[Stand]:
    """Starts everything; the pullers are granted no call yet. Each is to make `calls`.

    Raises SandboxError if a server cannot be started.
    """
    with ExitStack() as stack:
        cluster = stack.enter_context(PrivateCluster()) if is_cluster else None
        nodes: Sequence[PrivateRabbitMQ] = (
            cluster.nodes if cluster else [stack.enter_context(PrivateRabbitMQ())]
        )
        database = stack.enter_context(PrivatePostgreSQL())

        def proxy_before(url: str) -> Proxy:
            return stack.enter_context(closing(Proxy(port_of(url))))

        proxies = {
            Way.PULLERS_TO_BROKER: [proxy_before(node.url) for node in nodes],
            Way.WORKERS_TO_BROKER: [proxy_before(node.url) for node in nodes],
            Way.WORKERS_TO_DATABASE: [proxy_before(database.url)],
        }
        engine = open_engine(database.url)
        stack.callback(engine.dispose)
        # Whatever happens to this process, what runs in this folder ends with it.
        folder = PrivateFolder("campaign")
        stack.callback(folder.remove)
        disk = stack.enter_context(small_disk(folder.path / "disk", calls))
        stand = Stand(calls, folder.path, nodes, cluster, database, engine, proxies, disk)
        if (init := stand.run("mirror-consumer", "init")).returncode:
            raise SandboxError(f"mirror-consumer init: {init.stderr}")
        register_branches(
            engine, *sorted({each for puller in range(PULLERS) for each in branches(puller)})
        )
        random = Random(f"{seed}/clocks")
        stand.pullers += [puller(stand, seed, each, random) for each in range(PULLERS)]
        stand.workers += [worker(stand, each) for each in range(1, WORKERS + 1)]
        for service in stand.services:
            stack.callback(service.clear_away)
            service.start()
        yield stand


def puller(stand: Stand, seed: int, number: int, random: Random) -> Puller:
    name = f"puller-{number}"
    where = stand.disk if stand.disk is not None and number == 0 else stand.folder
    spool = where / f"{name}.db"
    Spool(spool).close()
    with closing(sqlite3.connect(spool)) as connection:
        connection.executescript(KEEP_WHAT_IS_TAKEN)
    board_path = stand.folder / f"{name}.board"
    board = Board(board_path)
    board.skew_seconds = random.randint(-MAX_SKEW_SECONDS, MAX_SKEW_SECONDS)
    service = Service(
        name,
        module(
            "tests.faults.campaign.puller",
            str(board_path),
            str(seed),
            str(number),
            str(stand.calls),
        ),
        {
            **stand.variables(Way.PULLERS_TO_BROKER),
            environment.SPOOL: str(spool),
            environment.SPOOL_LIMIT_BYTES: str(64 * 1024**3),
        },
        stand.folder,
    )
    return Puller(service, spool, board)


def worker(stand: Stand, number: int) -> Service:
    run = command("mirror-consumer", "run")
    return Service(f"worker-{number}", run, stand.variables(Way.WORKERS_TO_BROKER), stand.folder)


@contextmanager
def small_disk(folder: Path, calls: int) -> Iterator[Path | None]:
    """A file system of its own in memory, large enough for a spool; None where none is allowed."""
    folder.mkdir()
    size = DISK_SPARE_BYTES + calls * DISK_BYTES_PER_CALL
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
