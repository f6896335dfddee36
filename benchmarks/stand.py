"""The test stand: both servers, set up as `mirror-consumer init` does, and the commands on them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import psycopg2
from psycopg2.extensions import connection as PsycopgConnection
from sqlalchemy import make_url

from benchmarks.load import BRANCHES
from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.migrations import bring_forward
from mirrorfeed.consumer.partitions.topology import (
    declare_topology,
    delete_topology,
    find_topology,
)
from mirrorfeed.contract import environment, routing
from sandbox import SandboxError, find_broker, find_database

WATCH_SECONDS = 0.02
PARTITIONS = 4
QUEUES = tuple(routing.partition_queue(partition) for partition in range(PARTITIONS))


@dataclass(frozen=True)
class Stand:
    """Where a benchmark runs. `folder` is on a real disk, or else `fsync` would cost nothing."""

    amqp_url: str
    database_url: str
    folder: Path
    servers: tuple[str, str]

    def clear(self, branches: int = BRANCHES) -> None:
        """Empties queues and tables, and registers so many branches anew."""
        with broker_channel(connection_parameters(self.amqp_url)) as channel:
            for queue in (*QUEUES, routing.DEAD_QUEUE):
                channel.queue_purge(queue)
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                "TRUNCATE branch, mirror_attempt, script_activity, dead_letter,"
                " ledger_arrival, ledger_source, ledger_range"
            )
        self.register_branches(branches)

    def register_branches(self, count: int = BRANCHES) -> None:
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO branch (id, unique_name)"
                f" SELECT id, '~owner/branch-' || id FROM generate_series(1, {count}) id"
            )
            cursor.execute("ANALYZE branch")

    def connect(self) -> PsycopgConnection:
        """A connection of its own, in autocommit."""
        connection = psycopg2.connect(self.database_url)
        connection.autocommit = True
        return connection

    @contextmanager
    def running(self, *command: str) -> Iterator["subprocess.Popen[str]"]:
        """A command of this installation, such as `mirror-consumer`, or a module, in a process.

        It is sent SIGTERM where it still runs in the end. Raises RuntimeError where it fails.
        """
        with self.start(*command) as process:
            try:
                yield process
            finally:
                process.terminate()
                _, log = process.communicate(timeout=20)
                if (error := sys.exception()) is not None:
                    error.add_note(f"{command} said:\n{log}")
            if process.returncode:
                raise RuntimeError(f"{command} ended with {process.returncode}:\n{log}")

    def start(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self._arguments(command),
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def exit_code(self, *command: str) -> int:
        """Runs a command to its end, unseen."""
        return subprocess.run(
            self._arguments(command), env=self._environment(), capture_output=True, check=False
        ).returncode

    def _arguments(self, command: Sequence[str]) -> list[str]:
        return [str(Path(sys.executable).parent / command[0]), *command[1:]]

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            environment.AMQP_URL: self.amqp_url,
            environment.DATABASE_URL: self.database_url,
            environment.PARTITIONS: str(PARTITIONS),
        }


@contextmanager
def open_stand() -> Iterator[Stand]:
    """Finds or starts servers; on one that was given, uses a database of its own name.

    Raises SandboxError where the broker is in use by another mirrorfeed.
    """
    with find_broker() as broker, find_database() as server:
        _claim(broker.url)
        name = f"mirrorfeed_bench_{uuid4().hex}"
        _as_admin(server.url, f'CREATE DATABASE "{name}"')
        try:
            url = make_url(server.url).set(database=name, drivername="postgresql")
            database_url = url.render_as_string(hide_password=False)
            engine = open_engine(database_url)
            bring_forward(engine)
            engine.dispose()
            with TemporaryDirectory(prefix="mirrorfeed-bench-", dir=_disk()) as folder:
                names = (broker.name, server.name)
                yield Stand(broker.url, database_url, Path(folder), names)
        finally:
            _as_admin(server.url, f'DROP DATABASE "{name}" WITH (FORCE)')
            _give_up(broker.url)


def wait_for_log(process: "subprocess.Popen[str]", text: str) -> None:
    """Reads the process's log up to the first line that holds `text`.

    Raises RuntimeError where it ends without one.
    """
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise RuntimeError(f"a process ended without saying {json.dumps(text)}")


def await_work(process: "subprocess.Popen[str]", is_done: Callable[[], bool]) -> None:
    """Waits until a process has done its work, which is looked at every WATCH_SECONDS: the error
    of a time, of some seconds.

    Raises RuntimeError where it ends before.
    """
    while not is_done():
        time.sleep(WATCH_SECONDS)
        if process.poll() is not None and not is_done():
            raise RuntimeError("a process ended before its work was done")


def _disk() -> str | None:
    """/var/tmp is kept on a disk where /tmp may be memory."""
    return "/var/tmp" if Path("/var/tmp").is_dir() else None


def _as_admin(server_url: str, statement: str) -> None:
    with closing(psycopg2.connect(server_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)


def _claim(amqp_url: str) -> None:
    with broker_channel(connection_parameters(amqp_url)) as channel:
        if found := find_topology(channel, PARTITIONS):
            raise SandboxError(
                f"{environment.AMQP_URL} names a broker that has {', '.join(found)} already: give"
                " the benchmarks a virtual host of their own"
            )
        declare_topology(channel, PARTITIONS)


def _give_up(amqp_url: str) -> None:
    with broker_channel(connection_parameters(amqp_url)) as channel:
        delete_topology(channel, PARTITIONS)
