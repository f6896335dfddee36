"""A client that waits until a real broker has its events."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirrorfeed import BranchStatusClient
from mirrorfeed.amqp.connections import broker_channel, connection_parameters, message_count
from mirrorfeed.consumer.partitions.topology import declare_topology
from mirrorfeed.contract import environment, routing
from mirrorfeed.publisher.forward import forwarder, rhythm, session
from tests.commands import Shell
from tests.servers import PATIENCE_SECONDS, wait_for

NO_BROKER = "amqp://127.0.0.1:1"
SHORT_SECONDS = 0.5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


def message_total(amqp_url: str) -> int:
    with broker_channel(connection_parameters(amqp_url)) as channel:
        queues = routing.partition_queues(routing.DEFAULT_PARTITIONS)
        return sum(message_count(channel, queue) for queue in queues)


@contextmanager
def other_forwarder(path: Path, amqp_url: str) -> Iterator[None]:
    """Another process forwards the spool for the time of the block."""
    shell = Shell({environment.SPOOL: str(path), environment.AMQP_URL: amqp_url})
    with (
        BranchStatusClient(path, forward=False) as waiting,
        shell.running("mirror-publisher", "forward"),
    ):
        waiting.start_mirroring(1000)
        wait_for(lambda: waiting.status().pending == 0, "the other process to forward")
        yield


@pytest.mark.parametrize("timeout_seconds", [PATIENCE_SECONDS, float("inf")])
def test_a_flushed_client_has_everything_at_the_broker(
    path: Path, topology: str, timeout_seconds: float
) -> None:
    """Right after `flush` the queues hold every event, and the spool none."""
    with BranchStatusClient(path, topology) as client:
        for branch_id in range(1, 101):
            client.start_mirroring(branch_id)
        assert client.flush(timeout_seconds=timeout_seconds)
        assert message_total(topology) == 100
        status = client.status()
        assert (status.confirmed, status.pending, status.refused) == (100, 0, 0)


def test_nobody_waits_for_many_to_be_removed_together(
    path: Path, topology: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is confirmed leaves the spool at once if somebody flushes, before or after it is."""
    monkeypatch.setattr(session, "REMOVE_SECONDS", 3600.0)
    with BranchStatusClient(path, topology) as client:
        client.start_mirroring(1)
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        client.start_mirroring(2)
        wait_for(lambda: message_total(topology) == 2, "the second event to be published")
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)


def test_nobody_waits_for_many_to_be_sent_together(
    path: Path, topology: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is gathered leaves at once if somebody flushes."""
    for module in (rhythm, session):
        monkeypatch.setattr(module, "POLL_SECONDS", 3600.0)
    with BranchStatusClient(path, topology, gather_seconds=3600.0) as client:
        for branch_id in (1, 2, 3):
            client.start_mirroring(branch_id)
            assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        assert message_total(topology) == 3


def test_a_broker_that_is_away_has_nothing(path: Path) -> None:
    """`flush` waits for its whole timeout and returns False."""
    with BranchStatusClient(path, NO_BROKER) as client:
        client.start_mirroring(1)
        began_at = time.monotonic()
        assert not client.flush(timeout_seconds=SHORT_SECONDS)
        assert SHORT_SECONDS <= time.monotonic() - began_at < PATIENCE_SECONDS


def test_an_event_that_nobody_takes_is_not_flushed(path: Path, amqp_url: str) -> None:
    """`flush` returns False while the exchange is missing, and True once it is there."""
    with BranchStatusClient(path, amqp_url) as client:
        client.start_mirroring(1)
        assert not client.flush(timeout_seconds=SHORT_SECONDS)
        with broker_channel(connection_parameters(amqp_url)) as channel:
            declare_topology(channel, routing.DEFAULT_PARTITIONS)
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        assert message_total(amqp_url) == 1


@pytest.mark.parametrize("forward", [True, False])
def test_another_process_may_do_the_sending(path: Path, topology: str, forward: bool) -> None:
    """The client cannot reach the broker itself, whether it forwards or not."""
    with (
        other_forwarder(path, topology),
        BranchStatusClient(path, NO_BROKER, forward=forward) as client,
    ):
        client.start_mirroring(1)
        began_at = time.monotonic()
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        assert time.monotonic() - began_at < PATIENCE_SECONDS / 2
        assert message_total(topology) == 2


def test_what_other_processes_spooled_is_waited_for_too(path: Path, topology: str) -> None:
    """A client that reported nothing itself flushes the whole spool."""
    with BranchStatusClient(path, forward=False) as other:
        other.start_mirroring(1)
    with BranchStatusClient(path, topology) as client:
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        assert message_total(topology) == 1


def test_threads_flush_at_the_same_time(path: Path, topology: str) -> None:
    """Each finds its own event at the broker."""

    def report(branch_id: int) -> bool:
        client.start_mirroring(branch_id)
        return client.flush(timeout_seconds=PATIENCE_SECONDS)

    with BranchStatusClient(path, topology) as client, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(report, range(1, 33))) == [True] * 32
    assert message_total(topology) == 32


def test_the_clients_own_forwarder_wakes_a_flush(
    path: Path, topology: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this process forwards, `flush` need not look at the spool at intervals."""
    with BranchStatusClient(path, topology) as client:
        client.start_mirroring(1)
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        monkeypatch.setattr(forwarder, "POLL_SECONDS", PATIENCE_SECONDS)
        client.mirror_complete(1, "rev-1")
        began_at = time.monotonic()
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        assert time.monotonic() - began_at < PATIENCE_SECONDS / 2
