"""What a thousand puller hosts cost one broker, how they come back after its restart, and what a
forwarder and a worker cost that have nothing to do; writes docs/benchmarks/hosts.svg.

`make bench-hosts`, or `python -m benchmarks hosts` if matplotlib is installed.
"""

import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.harness import Row, Rows, Values, at_most, measure
from benchmarks.load import PARTITIONS
from benchmarks.pages import check_can_draw, new_figure, save
from benchmarks.stand import Stand, await_ready, kernel_count, result_of, wait_for_log
from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer.partitions.topology import declare_topology
from sandbox import PrivateRabbitMQ
from sandbox.servers import ADVISED_CONF

HOSTS = 1000
PROCESSES = 20
"""Many hosts are in one process, but not all: Python runs one thread of a process at a time."""
IDLE_SECONDS = 60
TICKS = 100
"""Of a second, in /proc/PID/stat (proc_pid_stat(5))."""

MEMORY = "memory of the broker, a connection"
CONNECTED = "from a start of the broker until all are connected"
CONFIRMED = "until all have sent another event"
BUSIEST = "new connections in the busiest second"
IDLE_COMMANDS = {
    "forwarder": (("mirror-publisher", "forward"), "connected"),
    "worker": (("mirror-consumer", "run"), "consuming"),
}

Seen = Sequence[tuple[float, int, int]]
"""At which time how many were connected, and how many had sent all."""


@measure("hosts", rounds=1, takes_minutes=True)
def hosts(stand: Stand) -> Rows:
    """Each host has a spool, a forwarder and a connection of its own."""
    check_can_draw()
    restarted = partial(_through_a_restart, stand)
    idle = partial(_idle, stand)
    yield {
        f"{HOSTS:,} hosts, one broker": [
            Row(MEMORY, "kB", restarted),
            Row(CONNECTED, "s", restarted, at_most(60)),
            Row(CONFIRMED, "s", restarted, at_most(60)),
            Row(BUSIEST, "connections", restarted),
        ],
        "idle": [
            row
            for name in IDLE_COMMANDS
            for row in (
                Row(f"{name}, processor time", "%", idle, at_most(0.2)),
                Row(f"{name}, how often it wakes", "1/s", idle),
            )
        ],
    }


def _through_a_restart(stand: Stand) -> Values:
    with PrivateRabbitMQ(ADVISED_CONF) as broker, ExitStack() as running:
        with broker_channel(connection_parameters(broker.url)) as channel:
            declare_topology(channel, PARTITIONS)
        each = HOSTS // PROCESSES
        callers = []
        memory = []
        for first in range(1, HOSTS + 1, each):
            some = stand.calling("hosts", stand.folder, first, each, broker.url)
            callers.append(running.enter_context(some))
            await_ready(callers[-1])
            memory.append(_memory_bytes(broker))
        # Without the first ones: the broker makes ready much that is then there for all.
        bytes_each = (memory[-1] - memory[0]) / (HOSTS - each)
        broker.terminate()
        for caller in callers:
            caller.send_signal(signal.SIGUSR1)
        began_at = time.monotonic()
        broker.start()
        seen = [result_of(caller) for caller in callers]
    ended_at = max(timeline[-1][0] for timeline in seen)
    counts = [_at(seen, began_at + second) for second in range(int(ended_at - began_at) + 2)]
    connected = [each for each, _ in counts]
    _draw(connected, [each for _, each in counts])
    return {
        MEMORY: bytes_each / 1000,
        CONNECTED: max(_first_full(timeline) for timeline in seen) - began_at,
        CONFIRMED: ended_at - began_at,
        BUSIEST: max(later - earlier for earlier, later in pairwise(connected)),
    }


def _first_full(timeline: Seen) -> float:
    """When all hosts of a process were connected."""
    most = max(connected for _, connected, _ in timeline)
    return next(at for at, connected, _ in timeline if connected == most)


def _at(seen: Sequence[Seen], moment: float) -> tuple[int, int]:
    """How many were connected by then, and how many had sent all."""
    by_then = [[each for each in timeline if each[0] <= moment] for timeline in seen]
    return (
        sum(max((connected for _, connected, _ in each), default=0) for each in by_then),
        sum(max((confirmed for _, _, confirmed in each), default=0) for each in by_then),
    )


def _memory_bytes(broker: PrivateRabbitMQ) -> int:
    """What the node has of the machine's memory. Erlang says that it has 4 MB for a connection from
    the same host, most of it for a buffer as large as Linux's own, which is hardly ever touched."""
    pid = broker.control("eval", "os:getpid().").strip().strip('"')
    resident = kernel_count(Path(f"/proc/{pid}"), "VmRSS")
    if not resident:
        raise RuntimeError("the node has ended")
    return resident * 1024


def _draw(connected: Sequence[int], confirmed: Sequence[int]) -> None:
    figure = new_figure(9, 3)
    whole, each = figure.subplots(1, 2)
    whole.plot(connected, label="connected")
    whole.plot(confirmed, label="have sent all")
    whole.set(xlabel="seconds since the broker was started", ylabel="hosts", ylim=(0, None))
    whole.legend(loc="lower right")
    new = [later - earlier for earlier, later in pairwise(connected)]
    each.bar(range(1, len(connected)), new)
    each.set(xlabel="seconds since the broker was started", ylabel="new connections in a second")
    save(figure, "hosts")


def _idle(stand: Stand) -> Values:
    """Both at once, once they have nothing to do."""
    stand.clear()
    with ExitStack() as running:
        processes = {}
        for name, (command, ready) in IDLE_COMMANDS.items():
            processes[name] = running.enter_context(stand.running(*command))
            wait_for_log(processes[name], ready)
        pause = threading.Event()
        pause.wait(IDLE_SECONDS / 6)  # a forwarder rests once nothing has come for some seconds
        before = {name: _spent(each.pid) for name, each in processes.items()}
        pause.wait(IDLE_SECONDS)
        values = {}
        for name, each in processes.items():
            ticks, turns = (
                (now - then) / IDLE_SECONDS
                for now, then in zip(_spent(each.pid), before[name], strict=True)
            )
            values[f"{name}, processor time"] = 100 * ticks / TICKS
            values[f"{name}, how often it wakes"] = turns
        return values


def _spent(pid: int) -> tuple[int, int]:
    """A process's ticks of processor time, and how often its threads have waited."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tasks = Path(f"/proc/{pid}/task").iterdir()
    turns = sum(kernel_count(task, "voluntary_ctxt_switches") for task in tasks)
    return int(fields[11]) + int(fields[12]), turns
