"""What Prometheus is told of the database and the broker."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.contract import environment, routing
from mirrorfeed.contract.events import Envelope, MirrorFailed, MirrorStarted, ScriptRun
from sandbox.ports import LOOPBACK, PortBlock
from tests.builders import envelope, messages
from tests.commands import Shell
from tests.probes import ask, samples, says
from tests.servers import publish_events, register_branches, wait_for

AWAY = "amqp://guest:guest@127.0.0.1:1/%2F"
"""Nobody listens there."""
QUEUE = routing.partition_queue(routing.slot_of("branch:1") % routing.DEFAULT_PARTITIONS)


@pytest.fixture
def port() -> Iterator[int]:
    block = PortBlock()
    yield block.ports[0]
    block.close()


@contextmanager
def collecting(shell: Shell, port: int, *options: str) -> Iterator[None]:
    """Until it has looked at least once."""
    command = ("mirror-consumer", "collect", "--http", f"{LOOPBACK}:{port}", "--interval", "5s")
    with shell.running(*command, *options):
        wait_for(lambda: says(port, "/live") == 200, "the collector")
        wait_for(lambda: ("collector_duration_seconds",) in collected(port), "a first look")
        yield


def collected(port: int) -> dict[tuple[str, ...], float]:
    return samples(ask(port, "/metrics").text, "mirrorfeed_")


def numbered(event: Any, sequence: int) -> Envelope:
    return envelope(event, sequence=sequence)


def test_what_the_servers_know_is_shown(
    shell: Shell, engine: Engine, topology: str, port: int
) -> None:
    """Branches, letters, what is missing, who reports, the queues, the workers and the scripts."""
    now = datetime.now(UTC)
    register_branches(engine, 1, 2, 3)
    ran = ScriptRun("gc", "mir", now - timedelta(seconds=9), now - timedelta(seconds=5))
    Applier(engine).apply(
        messages(
            numbered(MirrorFailed(1, now - timedelta(hours=1), "why"), 1),
            numbered(MirrorStarted(2, now - timedelta(hours=3)), 2),
            numbered(MirrorStarted(404, now), 4),
            numbered(ran, 7),
        )
    )
    publish_events(topology, envelope(MirrorStarted(1, now)))
    reading_only = shell.variables[environment.DATABASE_URL]
    reading_only += "?options=-c%20default_transaction_read_only%3Don"
    reader = Shell({**shell.variables, environment.DATABASE_URL: reading_only})
    scripts = ("--script", "mir:gc", "--script", "mir:never", "--grace", "0s")
    with collecting(reader, port, *scripts):
        assert ask(port, "/ready").text == "ready\n"
        seen = collected(port)
        assert seen["collector_success",] == 1
        assert 0 < seen["collector_duration_seconds",] < 10
        states = {"failing": 1, "stuck": 1, "never-mirrored": 1, "mirroring": 0, "mirrored": 0}
        assert {state: seen["branches", state] for state in states} == states
        assert seen["branches_stale", "6h"] == 3
        assert seen["dead_letters", "unknown-branch"] == 1
        assert seen["dead_letters", "malformed"] == 0
        oldest = seen["dead_letter_oldest_timestamp_seconds", "unknown-branch"]
        assert oldest == pytest.approx(now.timestamp(), abs=60)
        assert ("dead_letter_oldest_timestamp_seconds", "malformed") not in seen
        assert seen["audit_missing_events",] == 3
        assert 0 < seen["audit_missing_oldest_seconds",] < 60
        assert (seen["sources", "heard"], seen["sources", "silent"]) == (1, 0)
        assert (seen["queue_ready", QUEUE], seen["queue_consumers", QUEUE]) == (1, 0)
        assert seen["workers",] == 0
        completed = seen["script_last_completed_timestamp_seconds", "mir", "gc"]
        assert completed == pytest.approx(ran.completed_at.timestamp(), abs=1e-3)
        assert seen["script_last_completed_timestamp_seconds", "mir", "never"] == 0

        wait_for(lambda: collected(port)["queue_stalled_seconds", QUEUE] > 0, "the second look")
        with shell.running("mirror-consumer", "run"):
            wait_for(lambda: collected(port)["workers",] == 1, "the worker")
            wait_for(lambda: collected(port)["queue_ready", QUEUE] == 0, "the event")
            wait_for(lambda: collected(port)["queue_consumers", QUEUE] == 1, "the consumer")
            assert collected(port)["queue_stalled_seconds", QUEUE] < 5


def test_a_source_is_silent_once_it_was_not_heard_for_long(
    shell: Shell, engine: Engine, port: int
) -> None:
    """How long, can be said."""
    Applier(engine).apply(messages(numbered(MirrorStarted(404, datetime.now(UTC)), 1)))
    with collecting(shell, port, "--silent-after", "0s"):
        seen = collected(port)
        assert (seen["sources", "heard"], seen["sources", "silent"]) == (0, 1)


def test_a_broker_that_is_away_hides_nothing_of_the_database(shell: Shell, port: int) -> None:
    """And what it knew is not shown as if it were so."""
    alone = Shell({**shell.variables, environment.AMQP_URL: AWAY})
    with collecting(alone, port):
        seen = collected(port)
        assert seen["collector_success",] == 0
        assert seen["branches", "mirrored"] == 0
        assert not [key for key in seen if key[0].startswith("queue_")]
        assert ask(port, "/ready")[:2] == (503, "not ready: the broker is away: its log says why\n")
        assert ask(port, "/live").status == 200


def test_a_database_that_was_not_set_up_is_waited_for(
    shell: Shell, engine: Engine, port: int
) -> None:
    """As one that is away."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE mirror_attempt RENAME TO elsewhere"))
    with collecting(shell, port):
        assert collected(port)["collector_success",] == 0
        assert ask(port, "/ready").text == "not ready: the database is away: its log says why\n"
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO mirror_attempt"))
        wait_for(lambda: says(port, "/ready") == 200, "the next look")


def test_a_service_that_would_ask_without_end_is_refused(shell: Shell) -> None:
    """The servers have other work."""
    command = ("mirror-consumer", "collect", "--http", f"{LOOPBACK}:0", "--interval", "1s")
    assert "would keep the servers busy" in shell.run(*command, expect=2).stderr
    result = shell.run("mirror-consumer", "collect", expect=2)
    assert "--http" in result.stderr
