"""What a puller host pays: for one call, for many calling processes, and for sending the spool."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from pathlib import Path
from signal import SIGUSR1
from uuid import uuid4

from benchmarks.bare import BareFile
from benchmarks.callers import is_empty, timed
from benchmarks.harness import (
    Row,
    Rows,
    Target,
    Values,
    at_least,
    at_most,
    beside,
    in_turns,
    measure,
    milliseconds,
)
from benchmarks.load import history, publications, publish, publish_one
from benchmarks.stand import FORWARD, NOBODY_LISTENS, Stand, await_ready, result_of
from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.spool import Spool
from sandbox.rabbitmq import PrivateRabbitMQ
from tests.servers import wait_for

CALLS = 3000
BLOCK = 100
"""Calls of one kind in a row, before the next kind's turn."""
BLOCKS_OF_A_DEATH = 15
APPENDERS = 16
APPENDS = 4800
"""Calls of all processes together."""
PACE = 100
"""Calls a second of each of them, where they pause."""
EVENTS = 60_000
EVENTS_ONE_BY_ONE = 2000
RUNS = 20
BARE = "bare commit"
UP, DOWN, DYING = (f"start_mirroring, broker {state}" for state in ("up", "down", "dying"))


@measure("calls", rounds=3)
def calls(stand: Stand) -> Rows:
    """Client calls, compared with a bare commit of the same bytes in the same folder."""
    stand.clear()
    with PrivateRabbitMQ() as mortal:
        stand.run("mirror-consumer", "init", "--amqp-url", mortal.url)
        blocks = partial(_calls_in_blocks, stand)
        death = partial(_calls_through_a_death, stand, mortal)

        def rows(
            percent: int, to_bare: Callable[[Row], Target], to_up: Callable[[Row], Target]
        ) -> list[Row]:
            bare = Row(f"{BARE}, p{percent}", "ms", blocks)
            up = Row(f"{UP}, p{percent}", "ms", blocks, to_bare(bare))
            down = Row(f"{DOWN}, p{percent}", "ms", blocks, to_bare(bare))
            return [bare, up, down, Row(f"{DYING}, p{percent}", "ms", death, to_up(up))]

        p99 = rows(99, partial(at_most, 3), partial(at_most, 1.2))
        yield {"client, one call": rows(50, beside, beside) + p99}


def _calls_in_blocks(stand: Stand) -> Values:
    spools = {state: _new(stand, state) for state in ("up", "down")}
    with (
        closing(BareFile(_new(stand, "bare"))) as bare,
        closing(BranchStatusClient(spools["up"], stand.amqp_url)) as up,
        closing(BranchStatusClient(spools["down"], NOBODY_LISTENS)) as down,
        closing(Spool(spools["up"])) as view,
    ):

        def block(call: Callable[[int], None]) -> list[float]:
            seconds = timed(call, BLOCK)
            # Work that one kind left behind must not slow the next one down.
            wait_for(lambda: is_empty(view), "the forwarder to send what was spooled")
            return seconds

        blocks = in_turns(
            CALLS // BLOCK,
            {
                BARE: partial(block, bare.commit),
                UP: partial(block, up.start_mirroring),
                DOWN: partial(block, down.start_mirroring),
            },
        )
    return _quantiles({what: list(chain(*seconds)) for what, seconds in blocks.items()})


def _calls_through_a_death(stand: Stand, broker: PrivateRabbitMQ) -> Values:
    """Calls before, while and after the broker's node is killed."""
    broker.start()
    seconds: list[float] = []
    spool = _new(stand, "dying")
    with closing(BranchStatusClient(spool, broker.url)) as client, closing(Spool(spool)) as view:
        client.start_mirroring(1)
        wait_for(lambda: is_empty(view), "a connection")
        for block in range(BLOCKS_OF_A_DEATH):
            if block == BLOCKS_OF_A_DEATH // 3:
                broker.kill()
            seconds += timed(client.start_mirroring, BLOCK)
    return _quantiles({DYING: seconds})


def _quantiles(seconds: dict[str, list[float]]) -> Values:
    return {
        f"{what}, p{percent}": milliseconds(each, percent)
        for what, each in seconds.items()
        for percent in (50, 99)
    }


def _new(stand: Stand, name: str) -> Path:
    return stand.folder / f"{name}-{uuid4()}.db"


@measure("appenders", rounds=3)
def appenders(stand: Stand) -> Rows:
    """How fast many processes append to one spool, compared with one process and bare commits."""

    def alone() -> float:
        with closing(BareFile(_new(stand, "bare"))) as bare:
            return milliseconds(timed(bare.commit, APPENDS), 99)

    def together() -> Values:
        rate, seconds = _append(stand, APPENDERS)
        return {many.what: rate, **waits(many.what, seconds)}

    def paced() -> Values:
        _, seconds = _append(stand, APPENDERS, PACE)
        return waits(at_pace, seconds)

    def waits(what: str, seconds: list[float]) -> Values:
        p99, longest = milliseconds(seconds, 99), milliseconds(seconds, 100)
        return {f"{what}, p99": p99, f"{what}, longest call": longest}

    bare = Row("bare commit, alone, p99", "ms", alone)
    one = Row("one process", "calls/s", lambda: _append(stand, 1)[0])
    many = Row(f"{APPENDERS} processes", "calls/s", together, at_least(1, one))
    at_pace = f"{many.what}, {PACE} calls a second each"
    rows = [
        row
        for what, measured in ((many.what, together), (at_pace, paced))
        for row in (
            Row(f"{what}, p99", "ms", measured, at_most(20, bare)),
            Row(f"{what}, longest call", "ms", measured),
        )
    ]
    yield {"pullers, one spool": [bare, one, many, *rows]}


def _append(stand: Stand, processes: int, rate: float = math.inf) -> tuple[float, list[float]]:
    """Calls per second, from the first start to the last end, and the seconds of each call."""
    path = _new(stand, "appended")
    with ExitStack() as stack:
        running = [
            stack.enter_context(stand.calling("appender", path, APPENDS // processes, rate))
            for _ in range(processes)
        ]
        for each in running:
            await_ready(each)
        for each in running:
            each.send_signal(SIGUSR1)
        outputs = [result_of(each) for each in running]
    with closing(Spool(path)) as spool:
        sequences = [event.sequence for event in spool.pending(after=0, limit=APPENDS + 1)]
    if sequences != list(range(1, APPENDS + 1)):
        raise RuntimeError(f"of {APPENDS} calls {len(sequences)} events are in the spool")
    seconds = max(each["ended_at"] for each in outputs) - min(each["began_at"] for each in outputs)
    return APPENDS / seconds, [wait for each in outputs for wait in each["seconds"]]


@measure("forwarding", rounds=3)
def forwarding(stand: Stand) -> Rows:
    """The forwarder, compared with bare publishers of the same events."""

    def bare_rate() -> float:
        stand.clear()
        batch = publications(EVENTS)
        return len(batch) / publish(stand.amqp_url, batch)

    def one_by_one_rate() -> float:
        stand.clear()
        batch = publications(EVENTS_ONE_BY_ONE)
        with stand.channel() as channel:
            channel.confirm_delivery()
            began_at = time.perf_counter()
            for each in batch:
                publish_one(channel, each)
            return len(batch) / (time.perf_counter() - began_at)

    def forward_rate() -> float:
        """Runs the forwarder until its spool is empty."""
        stand.clear()
        path = _new(stand, "forwarding")
        with closing(Spool(path)) as spool:
            with spool.writing() as writer:
                for envelope in history(EVENTS):
                    writer.append(envelope.event, occurred_at=envelope.time)
            count = spool.status().pending
            command = (*FORWARD, "--spool", str(path))
            (seconds,), _ = stand.drained(command, "connected", [partial(is_empty, spool)])
        return count / seconds

    bare = Row("bare, pipelined confirms", "events/s", bare_rate)
    one_by_one = Row("bare, waiting for each confirm", "events/s", one_by_one_rate)
    targets = (at_least(0.7, bare), at_least(10, one_by_one))
    ours = Row(" ".join(FORWARD), "events/s", forward_rate, *targets)
    yield {"forwarder, draining a spool": [bare, one_by_one, ours]}


@measure("shell", rounds=3)
def shell(stand: Stand) -> Rows:
    """How long a shell waits for a command that reports one event."""
    report = ("mirror-publisher", "started", "1", "--spool", str(_new(stand, "shell")))

    def run() -> Values:
        commands = {python.what: ("python", "-c", "pass"), ours.what: report}
        runs = {what: partial(stand.seconds_of, *command) for what, command in commands.items()}
        seconds = in_turns(RUNS, runs)
        return {what: milliseconds(each) for what, each in seconds.items()}

    python = Row("python -c pass", "ms", run)
    ours = Row("mirror-publisher started", "ms", run, beside(python), at_most(150))
    yield {"mirror-publisher, from a shell": [python, ours]}
