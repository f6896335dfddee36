"""What a spool of a million events costs: the next call, `status`, and its drain."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from benchmarks.callers import timed
from benchmarks.harness import Row, Rows, Values, at_least, at_most, measure, milliseconds
from benchmarks.load import QUEUES, history
from benchmarks.stand import FORWARD, Stand
from mirrorfeed.contract.events import ScriptRun
from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.spool import Spool

EVENTS = 1_000_000
FEW = 50_000
AT_ONCE = 50_000
"""Events appended in one transaction."""
CALLS = 1000
RUNS = 10
PURGE_SECONDS = 0.5


@measure("full-spool", rounds=1, takes_minutes=True)
def full_spool(stand: Stand) -> Rows:
    empty, few, full = (stand.folder / f"{name}.db" for name in ("empty", "few", "full"))
    for path, count in ((empty, 0), (few, FEW), (full, EVENTS)):
        _fill(path, count)
    rows: list[Row] = []

    def compare(what: str, seconds: Callable[[Path], list[float]], target: float) -> None:
        row = Row(f"{what}, empty", "ms", lambda: milliseconds(seconds(empty)))
        targets = [at_most(target, row)]
        rows.append(row)
        rows.append(Row(f"{what}, full", "ms", lambda: milliseconds(seconds(full)), *targets))

    def status(path: Path) -> list[float]:
        command = ("mirror-publisher", "status", "--spool", str(path))
        return [stand.seconds_of(*command) for _ in range(RUNS)]

    def drained() -> Values:
        peak, rates = _drain(stand, full)
        return {
            memory.what: peak,
            tenths.what: rates,
            fastest.what: max(rates),
            slowest.what: min(rates),
        }

    compare("first call of a process", lambda path: [_first_call(path) for _ in range(RUNS)], 1.5)
    compare("call", _calls, 1.2)
    compare("mirror-publisher status", status, 1.2)
    few_memory = Row(f"peak memory, {FEW:,} events", "MB", lambda: _drain(stand, few)[0])
    memory = Row(f"peak memory, {EVENTS:,} events", "MB", drained, at_most(1.2, few_memory))
    tenths = Row("drain, tenth by tenth", "events/s", drained)
    fastest = Row("drain, fastest tenth", "events/s", drained)
    slowest = Row("drain, slowest tenth", "events/s", drained, at_least(0.7, fastest))
    yield {"full spool": [*rows, tenths, fastest, slowest, few_memory, memory]}


def _fill(path: Path, count: int) -> None:
    # All runs of one script have one key: sent one by one, they would dominate the last tenth.
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
        return timed(client.start_mirroring, CALLS)


def _drain(stand: Stand, path: Path) -> tuple[float, list[float]]:
    """The forwarder's peak memory in MB, and its events per second in each tenth of the spool."""
    stand.clear()
    with closing(Spool(path)) as spool, _purging(stand):
        count = spool.status().pending

        def is_confirmed(events: int) -> bool:
            return spool.status().confirmed >= events

        tenths = [partial(is_confirmed, number * count // 10) for number in range(1, 11)]
        command = (*FORWARD, "--spool", str(path))
        seconds, peak = stand.drained(command, "connected", tenths)
        if spool.status().pending:
            raise RuntimeError("the forwarder ended before its spool was empty")
    return peak, [count / 10 / each for each in seconds]


@contextmanager
def _purging(stand: Stand) -> Iterator[None]:
    """Empties the queues, as nobody consumes: otherwise the broker's memory would be the limit."""
    is_over = threading.Event()

    def purge() -> None:
        with stand.channel() as channel:
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
