"""Everything a campaign runs: servers, proxies before them, workers and pullers."""

import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from pika.adapters.blocking_connection import BlockingChannel
from sqlalchemy import Engine

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
from tests.faults.campaign.replica import Replica
from tests.faults.campaign.schedule import (
    MAX_SKEW_SECONDS,
    PARTITIONS,
    PULLERS,
    WORKERS,
    Fault,
    Way,
)
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
    databases: Sequence[PrivatePostgreSQL]
    """One, or a pair of which one is the standby; see `primary`."""
    engine: Engine
    proxies: dict[Way, list[Proxy]]
    """One before each server that a way leads to."""
    ports: Sequence[int]
    """Three that are free."""
    disk: Path | None
    """A small file system under the first puller's spool, if this user may mount one."""
    max_skew_seconds: int
    """How far a puller's clock may be wrong, in either direction."""
    primary: int = 0
    """Which of the databases can be written."""
    partitions: int = PARTITIONS
    kept: timedelta | None = None
    """The least age of attempts that may have been pruned; None if nobody prunes."""
    pullers: list[Puller] = field(default_factory=list)
    workers: list[Service] = field(default_factory=list)
    others: list[Service] = field(default_factory=list)
    """What no fault hits by itself."""
    spools: list[Path] = field(default_factory=list)
    """Those that no seed determines, and that a trigger watches, too."""
    probes: list[ScriptRun] = field(default_factory=list)
    """Script runs that the campaign published itself."""
    begun: list[tuple[float, Fault]] = field(default_factory=list)
    """Each fault so far, and when it began by the monotonic clock."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set if the campaign ends early: then lasting faults end too."""

    @property
    def services(self) -> list[Service]:
        return [*self.workers, *(puller.service for puller in self.pullers), *self.others]

    @property
    def all_spools(self) -> list[Path]:
        """Those of the pullers come first."""
        return [*(puller.spool for puller in self.pullers), *self.spools]

    @property
    def database(self) -> PrivatePostgreSQL:
        """The one that can be written."""
        return self.databases[self.primary]

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
            environment.AMQP_URL: ",".join(node.url for node in self.nodes),
            environment.DATABASE_URL: database_url(*map(port_of_server, self.databases)),
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
        ports = [proxy.port for proxy in self.proxies[Way.WORKERS_TO_DATABASE]]
        return {
            environment.AMQP_URL: ",".join(
                f"amqp://guest:guest@{LOOPBACK}:{broker.port}/%2F?heartbeat={HEARTBEAT_SECONDS}"
                for broker in self.proxies[broker_side]
            ),
            environment.DATABASE_URL: database_url(*ports),
            environment.PARTITIONS: str(PARTITIONS),
        }


@contextmanager
def open_stand(
    seed: int,
    *,
    calls: int,
    is_cluster: bool,
    has_standby: bool = False,
    max_skew_seconds: int = MAX_SKEW_SECONDS,
) -> Iterator[Stand]:
    """Starts everything; the pullers are granted no call yet. Each is to make `calls`.

    Raises SandboxError if a server cannot be started.
    """
    with ExitStack() as stack:
        cluster = stack.enter_context(PrivateCluster()) if is_cluster else None
        nodes: Sequence[PrivateRabbitMQ] = (
            cluster.nodes if cluster else [stack.enter_context(PrivateRabbitMQ())]
        )
        databases: Sequence[PrivatePostgreSQL] = (
            stack.enter_context(replicating())
            if has_standby
            else [stack.enter_context(PrivatePostgreSQL())]
        )

        def proxy_before(url: str) -> Proxy:
            return stack.enter_context(closing(Proxy(port_of(url))))

        proxies = {
            Way.PULLERS_TO_BROKER: [proxy_before(node.url) for node in nodes],
            Way.WORKERS_TO_BROKER: [proxy_before(node.url) for node in nodes],
            Way.WORKERS_TO_DATABASE: [proxy_before(each.url) for each in databases],
        }
        engine = open_engine(database_url(*map(port_of_server, databases)))
        stack.callback(engine.dispose)
        # Whatever happens to this process, what runs in this folder ends with it.
        folder = PrivateFolder("campaign")
        stack.callback(folder.remove)
        disk = stack.enter_context(small_disk(folder.path / "disk", calls))
        stand = Stand(
            *(calls, folder.path, nodes, cluster, databases, engine, proxies),
            *(folder.ports, disk),
            max_skew_seconds,
        )
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
    new_spool(spool)
    board_path = stand.folder / f"{name}.board"
    board = Board(board_path)
    board.skew_seconds = random.randint(-stand.max_skew_seconds, stand.max_skew_seconds)
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


def new_spool(path: Path) -> None:
    """A spool that also keeps what it takes, for `taken`."""
    Spool(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(KEEP_WHAT_IS_TAKEN)


def taken(spool: Path) -> list[bytes]:
    """The bodies of all events that the spool ever took, in order."""
    with closing(sqlite3.connect(spool)) as connection:
        return [body for (body,) in connection.execute("SELECT body FROM taken ORDER BY sequence")]


@contextmanager
def replicating() -> Iterator[tuple[Replica, Replica]]:
    """A primary, and its standby."""
    with Replica() as primary, Replica(primary) as standby:
        yield primary, standby


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


def database_url(*ports: int) -> str:
    """Where there are several, whichever can be written."""
    hosts = ",".join(f"{LOOPBACK}:{port}" for port in ports)
    which = "?target_session_attrs=read-write" if len(ports) > 1 else ""
    return f"postgresql://mirrorfeed@{hosts}/mirrorfeed{which}"


def port_of_server(server: PrivatePostgreSQL) -> int:
    return port_of(server.url)


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
