"""What a spool of a million events costs: the next call, `status`, and its drain."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice, pairwise
from pathlib import Path

from benchmarks.appender import timed_calls
from benchmarks.load import history
from benchmarks.memory import high_water_mark
from benchmarks.report import Row, Target, quantile
from benchmarks.stand import QUEUES, Stand, wait_for_log
from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.contract.events import ScriptRun
from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.spool import Spool

SUBJECT = "full spool"
EVENTS = 1_000_000
FEW = 50_000
AT_ONCE = 50_000
"""Events that are appended in one transaction."""
CALLS = 1000
RUNS = 10
WATCH_SECONDS = 0.02
PURGE_SECONDS = 0.5


def measure(stand: Stand) -> list[Row]:
    empty, few, full = (stand.folder / f"{name}.db" for name in ("empty", "few", "full"))
    Spool(empty).close()
    _fill(few, FEW)
    _fill(full, EVENTS)
    rows = _beside(
        "first call of a process",
        [_first_call(empty) for _ in range(RUNS)],
        [_first_call(full) for _ in range(RUNS)],
        1.5,
    )
    rows += _beside("call", _calls(empty), _calls(full), 1.2)
    rows += _beside("mirror-publisher status", _status(stand, empty), _status(stand, full), 1.2)
    few_peak, _ = _drain(stand, few)
    full_peak, rates = _drain(stand, full)
    fastest = Row(SUBJECT, "drain, fastest tenth", "events/s", [max(rates)])
    few_row = Row(SUBJECT, f"peak memory, {FEW:,} events", "MB", [few_peak])
    what = f"peak memory, {EVENTS:,} events"
    return [
        *rows,
        Row(SUBJECT, "drain, tenth by tenth", "events/s", rates),
        fastest,
        Row(SUBJECT, "drain, slowest tenth", "events/s", [min(rates)], fastest, [Target("≥", 0.7)]),
        few_row,
        Row(SUBJECT, what, "MB", [full_peak], few_row, [Target("≤", 1.2)]),
    ]


def _beside(what: str, empty: list[float], full: list[float], at_most: float) -> list[Row]:
    empty_row = Row(SUBJECT, f"{what}, empty", "ms", [1000 * quantile(empty, 50)])
    milliseconds = [1000 * quantile(full, 50)]
    return [
        empty_row,
        Row(SUBJECT, f"{what}, full", "ms", milliseconds, empty_row, [Target("≤", at_most)]),
    ]


def _fill(path: Path, count: int) -> None:
    # All runs of one script have one key: they go one by one, and would be what the end measures.
    events = (event for event in history(count) if not isinstance(event.event, ScriptRun))
    with closing(Spool(path, limit_bytes=4 * 1024**3)) as spool:
        while batch := list(islice(events, AT_ONCE)):
            with spool.writing() as writer:
                for envelope in batch:
                    writer.append(envelope.event, occurred_at=envelope.time)


def _first_call(path: Path) -> float:
    began_at = time.perf_counter()
    with closing(BranchStatusClient(path, forward=False)) as client:
        client.start_mirroring(1)
        return time.perf_counter() - began_at


def _calls(path: Path) -> list[float]:
    with closing(BranchStatusClient(path, forward=False)) as client:
        return timed_calls(client, CALLS)


def _status(stand: Stand, path: Path) -> list[float]:
    """The seconds of each run of the command."""
    seconds: list[float] = []
    for _ in range(RUNS):
        began_at = time.perf_counter()
        if stand.exit_code("mirror-publisher", "status", "--spool", str(path)):
            raise RuntimeError("mirror-publisher status failed")
        seconds.append(time.perf_counter() - began_at)
    return seconds


def _drain(stand: Stand, path: Path) -> tuple[float, list[float]]:
    """The forwarder's peak memory in MB, and its events a second in each tenth of the spool."""
    stand.clear()
    command = ("mirror-publisher", "forward", "--drain", "--spool", str(path))
    peak = 0.0
    with closing(Spool(path)) as spool, _purging(stand):
        count = spool.status().pending
        with stand.running(*command) as forwarder:
            wait_for_log(forwarder, "connected")
            reached_at = [time.perf_counter()]
            while forwarder.poll() is None:
                peak = high_water_mark(forwarder.pid) or peak
                confirmed = spool.status().confirmed
                while len(reached_at) <= 10 and confirmed >= len(reached_at) * count // 10:
                    reached_at.append(time.perf_counter())
                try:
                    forwarder.wait(WATCH_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        if spool.status().pending:
            raise RuntimeError("the forwarder ended before its spool was empty")
    return peak, [count / 10 / (end - begin) for begin, end in pairwise(reached_at)]


@contextmanager
def _purging(stand: Stand) -> Iterator[None]:
    """Nobody consumes: the queues are emptied, or the broker's memory would be what is measured."""
    is_over = threading.Event()

    def purge() -> None:
        with broker_channel(connection_parameters(stand.amqp_url)) as channel:
            while not is_over.wait(PURGE_SECONDS):
                for queue in QUEUES:
                    channel.queue_purge(queue)

    thread = threading.Thread(target=purge)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
