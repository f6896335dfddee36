"""What Prometheus is told of a worker."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.contract import routing
from sandbox.ports import LOOPBACK, PortBlock
from tests.builders import completed, started
from tests.commands import Shell
from tests.probes import ask, samples, says
from tests.servers import publish, publish_events, register_branches, wait_for

BRANCH = 1
QUEUE = routing.partition_queue(routing.slot_of(f"branch:{BRANCH}") % routing.DEFAULT_PARTITIONS)
SCRAPE_BYTES = 64 * 1024


@pytest.fixture
def port() -> Iterator[int]:
    block = PortBlock()
    yield block.ports[0]
    block.close()


def scraped(port: int) -> dict[tuple[str, ...], float]:
    return samples(ask(port, "/metrics").text, "mirrorfeed_worker_")


def test_what_a_worker_does_is_counted(
    shell: Shell, engine: Engine, topology: str, port: int
) -> None:
    """What came, what became of it, and how long that took."""
    register_branches(engine, BRANCH)
    publish_events(topology, started(BRANCH, 0), completed(BRANCH, 0, "rev-1"))
    publish(topology, b"rubbish", b"x" * 70_000)
    with shell.running("mirror-consumer", "run", "--http", f"{LOOPBACK}:{port}"):
        wait_for(lambda: says(port, "/ready") == 200, "the worker")
        wait_for(lambda: scraped(port)["buried_total", "malformed"] == 1, "the rubbish")
        wait_for(lambda: scraped(port)["buried_total", "too-large"] == 1, "the large one")
        wait_for(lambda: scraped(port)["in_hand_events",] == 0, "the acks")
        seen = scraped(port)
        assert seen["events_total", "applied", "mirror.started"] == 1
        assert seen["events_total", "applied", "mirror.completed"] == 1
        assert seen["events_total", "buried", "other"] == 2
        assert sum(value for (name, *_), value in seen.items() if name == "deliveries_total") == 4
        assert seen["deliveries_total", QUEUE] >= 2
        assert seen["event_delay_seconds_count",] == 2
        assert seen["batch_events_sum",] == 4
        assert seen["redeliveries_total",] == seen["database_retries_total",] == 0
        assert len(ask(port, "/metrics").text) < SCRAPE_BYTES


def test_what_is_tried_again_is_counted(
    shell: Shell, engine: Engine, topology: str, port: int
) -> None:
    """While the batch stays in hand."""
    register_branches(engine, BRANCH)
    with shell.running("mirror-consumer", "run", "--http", f"{LOOPBACK}:{port}"):
        wait_for(lambda: says(port, "/ready") == 200, "the worker")
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE mirror_attempt RENAME TO elsewhere"))
        publish_events(topology, started(BRANCH, 0))
        wait_for(lambda: scraped(port)["database_retries_total",] > 0, "retries")
        assert scraped(port)["batch_in_hand_seconds",] > 0
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO mirror_attempt"))
        wait_for(
            lambda: scraped(port)["events_total", "applied", "mirror.started"] == 1, "recovery"
        )
