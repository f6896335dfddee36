"""The test stand: both servers, set up by `mirror-consumer init`, and the commands run on them."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2
from pika.adapters.blocking_connection import BlockingChannel
from psycopg2.extensions import connection as PsycopgConnection
from sqlalchemy import make_url

from benchmarks.load import BRANCHES, PARTITIONS, QUEUES, Publication, publications, publish
from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer.partitions.topology import find_topology
from mirrorfeed.contract import environment, routing
from sandbox import SandboxError, find_broker, find_database
from tests.commands import Shell
from tests.servers import delete_topology, new_database

WATCH_SECONDS = 0.02
TIMEOUT_SECONDS = 600.0
FORWARD = ("mirror-publisher", "forward", "--drain")
NOBODY_LISTENS = "amqp://guest:guest@127.0.0.1:1/%2F"
Process = subprocess.Popen[str]


@dataclass(frozen=True)
class Stand(Shell):
    """Where measures run. `folder` is on a real disk: in memory `fsync` would cost nothing."""

    amqp_url: str
    database_url: str
    folder: Path
    servers: tuple[str, str]
    connection: PsycopgConnection
    """In autocommit."""

    def clear(self, branches: int = BRANCHES) -> None:
        """Empties queues and tables, and registers this many branches."""
        with self.channel() as channel:
            for queue in (*QUEUES, routing.DEAD_QUEUE):
                channel.queue_purge(queue)
        self.ask("""TRUNCATE branch, mirror_attempt, script_activity, dead_letter,
            ledger_arrival, source CASCADE""")
        self.register(branches)

    def register(self, last: int = BRANCHES, first: int = 1) -> None:
        query = """INSERT INTO branch (id, unique_name)
            SELECT id, '~owner/branch-' || id FROM generate_series(%s, %s) id"""
        self.ask(query, (first, last))
        self.ask("ANALYZE branch")

    def backlog(self, count: int) -> list[Publication]:
        """What waits for a consumer, after everything was cleared."""
        self.clear()
        batch = publications(count)
        publish(self.amqp_url, batch)
        return batch

    def ask(
        self, query: str, parameters: tuple[object, ...] | Mapping[str, object] | None = None
    ) -> tuple[Any, ...]:
        """The first row, or None."""
        with self.connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return (cursor.fetchone() or ()) if cursor.description else ()

    def channel(self) -> AbstractContextManager[BlockingChannel]:
        return broker_channel(connection_parameters(self.amqp_url))

    def calling(self, caller: str, *arguments: object) -> AbstractContextManager[Process]:
        """One of `benchmarks.callers`."""
        return self.running("python", "-m", "benchmarks.callers", caller, *map(str, arguments))

    def seconds_of(self, *command: str, expect: int = 0) -> float:
        """The seconds from a command's start to its end."""
        began_at = time.perf_counter()
        self.run(*command, expect=expect)
        return time.perf_counter() - began_at

    def drained(
        self, command: Sequence[str], says: str, ends: Sequence[Callable[[], bool]]
    ) -> tuple[list[float], float]:
        """How many seconds a command takes to reach each of these ends, the first counted from when
        it `says` that it begins, and its peak memory in MB.

        So neither the interpreter's start counts, nor the final check that nothing is left.
        """
        with self.running(*command) as process:
            wait_for_log(process, says)
            reached_at, peak = [time.perf_counter()], 0.0
            for is_reached in ends:
                peak = max(peak, watch(process, is_reached))
                reached_at.append(time.perf_counter())
            peak = max(peak, watch(process, lambda: process.poll() is not None))
        return [end - begin for begin, end in pairwise(reached_at)], peak


@contextmanager
def open_stand() -> Iterator[Stand]:
    """Finds or starts servers. On a given database server it uses its own database.

    Raises SandboxError if the broker is in use by another mirrorfeed.
    """
    with find_broker() as broker, find_database() as server:
        _check_unused(broker.url)
        disk = "/var/tmp" if Path("/var/tmp").is_dir() else None  # /tmp may be memory
        with (
            TemporaryDirectory(prefix="mirrorfeed-bench-", dir=disk) as folder,
            new_database(make_url(server.url)) as database,
        ):
            url = database.set(drivername="postgresql").render_as_string(hide_password=False)
            with closing(psycopg2.connect(url)) as connection:
                connection.autocommit = True
                variables = {
                    environment.AMQP_URL: broker.url,
                    environment.DATABASE_URL: url,
                    environment.PARTITIONS: str(PARTITIONS),
                    # Otherwise our folder `amqp` would be taken for the package of that name.
                    "PYTHONSAFEPATH": "1",
                }
                names = (broker.name, server.name)
                try:
                    stand = Stand(variables, broker.url, url, Path(folder), names, connection)
                    stand.run("mirror-consumer", "init")
                    yield stand
                finally:
                    delete_topology(broker.url)


def wait_for_log(process: Process, pattern: str) -> re.Match[str]:
    """Reads the process's log up to the first line that matches the pattern.

    Raises RuntimeError if the process ends without one.
    """
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(pattern, line):
            return found
    raise RuntimeError(f"a process ended without saying {json.dumps(pattern)}")


def await_ready(caller: Process) -> None:
    """Returns once the process says that it is ready. Raises RuntimeError if it ends before."""
    assert caller.stdout is not None
    if caller.stdout.readline() != "ready\n":
        raise RuntimeError("a process ended without being ready")


def result_of(caller: Process) -> Any:
    """What the process prints at the end."""
    assert caller.stdout is not None
    result = json.load(caller.stdout)
    caller.wait()
    return result


def high_water_mark(process_id: int) -> float:
    """The peak resident memory so far, in MB of 10^6 bytes; 0 once the process has ended.

    The kernel keeps this mark, so nothing between two readings is missed. (`ru_maxrss` would not
    work: a child inherits its parent's.)
    """
    return kernel_count(Path(f"/proc/{process_id}"), "VmHWM") * 1024 / 1e6


def kernel_count(process: Path, name: str) -> int:
    """A number that Linux keeps of a process or thread (proc_pid_status(5)); 0 once it has ended.
    Memory is in KiB."""
    for line in (process / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def watch(
    process: Process,
    is_done: Callable[[], bool],
    look: Callable[[int], float] = high_water_mark,
    look_seconds: float = 0,
) -> float:
    """Waits until a process has done its work, and returns its peak memory in MB.

    It checks every WATCH_SECONDS, which is the error of the measured time, of some seconds. It
    reads the memory at most every `look_seconds`.

    Raises RuntimeError if the process ends before that, or takes longer than TIMEOUT_SECONDS.
    """
    peak = 0.0
    look_at = time.monotonic()
    deadline = look_at + TIMEOUT_SECONDS
    while True:
        now = time.monotonic()
        is_running = process.poll() is None
        if is_running and now >= look_at:
            peak, look_at = max(peak, look(process.pid)), now + look_seconds
        if is_done():
            return peak
        if not is_running:
            raise RuntimeError("a process ended before its work was done")
        if now > deadline:
            raise RuntimeError(f"a process had not done its work after {TIMEOUT_SECONDS:g} s")
        time.sleep(WATCH_SECONDS)


def _check_unused(amqp_url: str) -> None:
    with broker_channel(connection_parameters(amqp_url)) as channel:
        found = find_topology(channel, PARTITIONS)
    if found:
        raise SandboxError(
            f"{environment.AMQP_URL} names a broker that has {', '.join(found)} already: give the"
            " benchmarks a virtual host of their own"
        )
