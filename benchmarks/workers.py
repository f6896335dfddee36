"""Several workers beside one, and how long a killed one's share stays behind."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from subprocess import Popen

from benchmarks.drain import ROUNDS, await_outcomes, last_outcomes
from benchmarks.load import publications, publish
from benchmarks.report import Row, Target
from benchmarks.stand import QUEUES, Stand
from sandbox import wait_until

SUBJECT = "workers on one machine"
EVENTS = 60_000
EVENTS_OF_A_TAKEOVER = 200
SERVICE = ("mirror-consumer", "run")
PATIENCE_SECONDS = 60.0


def measure(stand: Stand) -> list[Row]:
    rates: dict[int, list[float]] = {1: [], 2: [], 4: []}
    takeovers: list[float] = []
    for _ in range(ROUNDS):
        for count, values in rates.items():
            values.append(_drained(stand, count))
        takeovers.append(_taken_over(stand))
    one = Row(SUBJECT, "one worker", "events/s", rates[1])
    return [
        one,
        Row(SUBJECT, "two workers", "events/s", rates[2], one, [Target("≥", 1)]),
        Row(SUBJECT, "four workers", "events/s", rates[4], one),
        Row(
            SUBJECT, "one of two killed, until its share is applied", "s", takeovers,
            targets=[Target("≤", 10, of_ratio=False)],
        ),
    ]  # fmt: skip


def _drained(stand: Stand, count: int) -> float:
    """Events a second, from when the workers wake up in front of the backlog."""
    stand.clear()
    with _sharing(stand, count) as workers:
        for worker in workers:
            worker.send_signal(signal.SIGSTOP)
        batch = publications(EVENTS)
        publish(stand.amqp_url, batch)
        began_at = time.perf_counter()
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
        await_outcomes(stand, last_outcomes(batch))
        return len(batch) / (time.perf_counter() - began_at)


def _taken_over(stand: Stand) -> float:
    stand.clear()
    with _sharing(stand, 2) as workers:
        batch = publications(EVENTS_OF_A_TAKEOVER)
        began_at = time.perf_counter()
        workers[0].kill()
        publish(stand.amqp_url, batch)
        await_outcomes(stand, last_outcomes(batch))
        return time.perf_counter() - began_at


@contextmanager
def _sharing(stand: Stand, count: int) -> Iterator[list["Popen[str]"]]:
    """Workers that have shared the partitions out."""
    with ExitStack() as stack:
        workers = [stack.enter_context(_service(stand)) for _ in range(count)]

        def have_settled() -> bool:
            with closing(stand.connect()) as connection, connection.cursor() as cursor:
                cursor.execute(
                    "SELECT count(DISTINCT number), count(queue) FROM worker, unnest(queues) queue"
                )
                return cursor.fetchone() == (count, len(QUEUES))

        wait_until(have_settled, PATIENCE_SECONDS, f"{count} workers to share the partitions")
        yield workers


@contextmanager
def _service(stand: Stand) -> Iterator["Popen[str]"]:
    worker = stand.start(*SERVICE)
    try:
        yield worker
    finally:
        worker.kill()
        worker.communicate()
