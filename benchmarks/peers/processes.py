"""What processes use: a consumer with its children, a server with its helpers."""

from contextlib import suppress

import psutil
from sqlalchemy import make_url

from benchmarks.stand import Stand
from mirrorfeed.amqp.connections import connection_parameters

SERVER_NAMES = ("beam", "postgres")


class Meter:
    """The processor time of a consumer and of both servers, from now on."""

    def __init__(self, stand: Stand, consumer: int) -> None:
        broker, *_ = connection_parameters(stand.amqp_url)
        ports = (broker.port, make_url(stand.database_url).port or 5432)
        self._roots = (psutil.Process(consumer), *map(_listener, ports))
        self._before = list(map(_cpu_seconds, self._roots))

    def read(self, events: int) -> list[float]:
        """Microseconds since then per event: the consumer's, the broker's, the database's. NaN for
        a server that does not run on this machine."""
        now = map(_cpu_seconds, self._roots)
        return [1e6 * (end - begin) / events for begin, end in zip(self._before, now, strict=True)]


def megabytes(root: int) -> float:
    """PSS, in MB of 10^6 bytes: memory shared by n processes counts one nth for each."""
    size = 0
    for process in family_of(psutil.Process(root)):
        with suppress(psutil.NoSuchProcess):
            size += process.memory_full_info().pss
    return size / 1e6


def _listener(port: int) -> psutil.Process | None:
    """The server that listens on the port; a container engine's proxy does not count."""
    for connection in psutil.net_connections("tcp"):
        is_listening = connection.status == psutil.CONN_LISTEN
        if is_listening and connection.laddr.port == port and connection.pid is not None:
            process = psutil.Process(connection.pid)
            # A server's child shares its parent's listening socket until it closes it.
            while (parent := process.parent()) and parent.name() == process.name():
                process = parent
            if process.name().startswith(SERVER_NAMES):
                return process
    return None


def _cpu_seconds(root: psutil.Process | None) -> float:
    """Used by the process and its descendants since they started, ended ones included."""
    if root is None:
        return float("nan")
    seconds = 0.0
    for process in family_of(root):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def family_of(root: psutil.Process) -> list[psutil.Process]:
    """The process and all its descendants; empty if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [root, *root.children(recursive=True)]
    return []
