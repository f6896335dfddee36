"""Callers, each in its own process: `python -m benchmarks.callers NAME ARGUMENT...`.

Each prints its results as JSON, with times in seconds of the monotonic clock that all share.
"""

import json
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http import HTTPStatus
from http.client import HTTPConnection
from importlib import import_module
from itertools import cycle, islice, repeat
from pathlib import Path
from typing import Any
from xmlrpc.client import dumps

import msgspec

from benchmarks.load import BRANCHES, publications, publish
from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.forward.forwarder import Forwarder
from mirrorfeed.publisher.spool import Spool
from sandbox import wait_until

REVISION = "0123456789abcdef0123456789abcdef01234567"
CONNECTIONS = 8
TIMEOUT_SECONDS = 60.0
HOSTS_SECONDS = 300.0
END_OF_RESPONSE = b"</methodResponse>\n"
TRUE = b"<boolean>1</boolean>"


def timed(
    call: Callable[[int], object], calls: int, due: Iterable[object] = repeat(None)
) -> list[float]:
    """The seconds of each call, made whenever `due` yields; successive calls are about branches far
    apart."""
    seconds: list[float] = []
    for number, _ in zip(range(calls), due, strict=False):
        branch_id = number * 7 % BRANCHES + 1
        began_at = time.perf_counter()
        call(branch_id)
        seconds.append(time.perf_counter() - began_at)
    return seconds


def at_pace(rate: float, count: int) -> Iterator[float]:
    """Waits until each of `count` calls is due, and yields that time.

    If a call is late because the one before took long, it was still due on time: its wait counts.
    """
    began_at = time.monotonic()
    for number in range(count):
        due = began_at + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        yield due


def appender(spool: str, calls: str, rate: str = "inf") -> dict[str, Any]:
    """One of many pullers on one spool: says that it is ready, waits for SIGUSR1, then calls, so
    many times a second. Returns when it began and ended, and how long each call took."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    with closing(BranchStatusClient(spool, forward=False)) as client:
        print("ready", flush=True)
        signal.sigwait([signal.SIGUSR1])
        began_at = time.monotonic()
        due = at_pace(float(rate), int(calls))
        seconds = timed(client.start_mirroring, int(calls), due)
        return {"began_at": began_at, "ended_at": time.monotonic(), "seconds": seconds}


def puller(spool: str, rate: str, calls: str, first_branch: str) -> dict[str, float]:
    """Mirrors one branch after the other at an even pace. Returns when each call was due."""
    due_at: dict[str, float] = {}
    with closing(BranchStatusClient(spool)) as client, closing(Spool(Path(spool))) as view:
        for number, due in enumerate(at_pace(float(rate), int(calls))):
            branch_id = int(first_branch) + number // 2
            if number % 2 == 0:
                client.start_mirroring(branch_id)
                due_at[f"started {branch_id}"] = due
            else:
                client.mirror_complete(branch_id, REVISION)
                due_at[f"ended {branch_id}"] = due
        wait_until(lambda: is_empty(view), TIMEOUT_SECONDS, "the forwarder to send all")
    return due_at


def hosts(folder: str, first: str, count: str, amqp_url: str) -> list[tuple[float, int, int]]:
    """Hosts with a spool and a forwarder each. Once an event of each is confirmed, it says that it
    is ready, waits for SIGUSR1, and reports another one of each. Returns, again and again until all
    are confirmed, the time and how many are connected and confirmed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    numbers = range(int(first), int(first) + int(count))
    spools = [Path(folder) / f"host-{number}.db" for number in numbers]
    with ExitStack() as opened:
        clients = [
            opened.enter_context(closing(BranchStatusClient(spool, forward=False)))
            for spool in spools
        ]
        forwarders = [Forwarder(spool, amqp_url) for spool in spools]

        def report() -> None:
            for branch_id, client in zip(numbers, clients, strict=True):
                client.start_mirroring(branch_id)

        def confirmed(events: int) -> int:
            return sum(client.status().confirmed >= events for client in clients)

        report()
        for forwarder in forwarders:
            opened.callback(forwarder.stop)
            forwarder.wake()
        wait_until(lambda: confirmed(1) == len(clients), TIMEOUT_SECONDS, "the first confirms")
        print("ready", flush=True)
        signal.sigwait([signal.SIGUSR1])
        report()
        seen: list[tuple[float, int, int]] = []

        def are_all_confirmed() -> bool:
            connected = sum(forwarder.is_connected for forwarder in forwarders)
            seen.append((time.monotonic(), connected, confirmed(2)))
            return seen[-1][-1] == len(clients)

        wait_until(are_all_confirmed, HOSTS_SECONDS, "the second confirms")
        return seen


def is_empty(spool: Spool) -> bool:
    return not spool.pending(after=0, limit=1)


def load(amqp_url: str, count: str, rate: str) -> float:
    """Publishes `count` events, `rate` a second. Returns the seconds that it took."""
    return publish(amqp_url, publications(int(count)), float(rate))


def peer(module: str, file: str, rate: str = "") -> dict[str, float]:
    """Publishes the bodies in the file, one per line, with the module's client: `rate` a second, or
    as fast as it can. Returns when each was due, as `puller` does."""
    bodies = Path(file).read_bytes().splitlines()
    due_at: dict[str, float] = {}

    def when_due(names: Sequence[str]) -> Iterator[bytes]:
        for due, name, body in zip(at_pace(float(rate), len(names)), names, bodies, strict=True):
            due_at[name] = due
            yield body

    events = map(msgspec.json.decode, bodies)
    kinds = {"mirror.started": "started"}
    names = [f"{kinds.get(event['type'], 'ended')} {event['subject']}" for event in events]
    import_module(module).publish(when_due(names) if rate else bodies)
    return due_at


def xmlrpc(port: str, calls: str) -> float:
    """Calls a second that are answered with True. Each of the CONNECTIONS is kept alive and sends
    its next call when the last one is answered.

    Sending and receiving are as cheap as possible, because the callers share the processors with
    the server.
    """
    unsent = unanswered = int(calls)
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for first_branch in range(1, CONNECTIONS + 1):
            connection = stack.enter_context(
                closing(socket.create_connection(("127.0.0.1", int(port)), TIMEOUT_SECONDS))
            )
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            caller = connection, _requests(first_branch)
            selector.register(connection, selectors.EVENT_READ, caller)
        began_at = time.perf_counter()
        for key in selector.get_map().values():
            connection, requests = key.data
            connection.sendall(next(requests))
            unsent -= 1
        while unanswered:
            for key, _ in selector.select(TIMEOUT_SECONDS):
                connection, requests = key.data
                _receive_true(connection)
                unanswered -= 1
                if unsent:
                    connection.sendall(next(requests))
                    unsent -= 1
        return int(calls) / (time.perf_counter() - began_at)


def viewers(address: str, count: str, pause_seconds: str, *paths: str) -> dict[str, list[float]]:
    """People who look at one page after the other, each beginning with another one, until SIGTERM.
    Returns how long each look at each page took. One that was refused, as if the database takes too
    long, counts as TIMEOUT_SECONDS."""
    pause = float(pause_seconds)
    seconds: dict[str, list[float]] = {path: [] for path in paths}
    has_ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: has_ended.set())

    def look(number: int) -> None:
        connection = HTTPConnection(address, timeout=TIMEOUT_SECONDS)
        has_ended.wait(pause * number / int(count))
        for path in islice(cycle(paths), number, None):
            began_at = time.perf_counter()
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            took = time.perf_counter() - began_at
            is_refused = answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            seconds[path].append(TIMEOUT_SECONDS if is_refused else took)
            if answer.status != HTTPStatus.OK and not is_refused:
                raise RuntimeError(f"{path} was answered with {answer.status}")
            if has_ended.wait(max(0.0, pause - took)):
                return

    with ThreadPoolExecutor(int(count)) as threads:
        list(threads.map(look, range(int(count))))
    return seconds


def _receive_true(connection: socket.socket) -> None:
    received = b""
    while not received.endswith(END_OF_RESPONSE):
        chunk = connection.recv(4096)
        if not chunk:
            raise RuntimeError("the server closed a connection")
        received += chunk
    if TRUE not in received:
        raise RuntimeError(f"a call was not answered with True:\n{received.decode()}")


def _requests(first_branch: int) -> Iterator[bytes]:
    """Successful attempts of one branch after the other, as Python's client sends them."""
    for branch_id in cycle(range(first_branch, BRANCHES + 1, CONNECTIONS)):
        yield _request("startMirroring", branch_id)
        yield _request("mirrorComplete", branch_id, REVISION)


def _request(method: str, *values: Any) -> bytes:
    body = dumps(values, method).encode()
    head = (
        "POST /RPC2 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: gzip\r\n"
        "Content-Type: text/xml\r\nUser-Agent: Python-xmlrpc/3.11\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    callers: Sequence[Callable[..., object]] = (
        appender,
        puller,
        load,
        peer,
        xmlrpc,
        viewers,
        hosts,
    )
    name, *arguments = sys.argv[1:]
    print(json.dumps({each.__name__: each for each in callers}[name](*arguments)), flush=True)
