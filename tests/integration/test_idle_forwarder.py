"""A forwarder that has had nothing to do for a long time, and then has."""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorfeed.contract import wire
from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.forward import rhythm
from mirrorfeed.publisher.forward import watch as watching
from mirrorfeed.publisher.forward.forwarder import Forwarder
from mirrorfeed.publisher.forward.watch import SpoolWatch
from mirrorfeed.publisher.spool_access import INDEX, LOG, beside
from tests.commands import Shell
from tests.servers import PATIENCE_SECONDS, take_all, wait_for

LONG_SECONDS = 10 * PATIENCE_SECONDS
LOOKS_AT_ALL_TIMES = "nobody tells when the spool is written to"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture(autouse=True)
def _is_soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forwarder of this process rests soon, but not while a busy disk takes a commit."""
    monkeypatch.setattr(rhythm, "AWAKE_SECONDS", 2.0)


@pytest.fixture
def client(path: Path, topology: str) -> Iterator[BranchStatusClient]:
    """Of a process that forwards nothing."""
    with BranchStatusClient(path, forward=False) as client:
        yield client


@pytest.fixture
def forwarder(client: BranchStatusClient, path: Path, topology: str) -> Iterator[Forwarder]:
    forwarder = Forwarder(path, topology)
    forwarder.wake()
    yield forwarder
    forwarder.stop()


@pytest.fixture
def idle(forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch) -> Forwarder:
    """Rests, and will not look by itself."""
    monkeypatch.setattr(rhythm, "REST_SECONDS", LONG_SECONDS)
    wait_for(lambda: forwarder.rests, "the forwarder to rest")
    return forwarder


def keys_at_broker(amqp_url: str, count: int) -> list[str]:
    return [wire.decode(body).partition_key for _, body in take_all(amqp_url, count)]


def test_what_another_process_appends_is_sent_without_a_look(
    idle: Forwarder, shell: Shell, path: Path, topology: str
) -> None:
    """Again and again: Linux tells that somebody writes to the spool."""
    for branch_id in ("1", "2"):
        shell.run("mirror-publisher", "started", branch_id, "--spool", str(path))
        assert keys_at_broker(topology, 1) == [f"branch:{branch_id}"]
        wait_for(lambda: idle.rests, "the forwarder to rest again")


def test_a_spool_that_is_replaced_is_noticed_without_a_look(
    idle: Forwarder, client: BranchStatusClient, path: Path, topology: str
) -> None:
    """What is in the new one is sent."""
    for ending in ("", LOG, INDEX):
        beside(path, ending).unlink()
    wait_for(lambda: not idle.rests, "the forwarder to notice")
    client.start_mirroring(1)
    assert keys_at_broker(topology, 1) == ["branch:1"]


def test_what_nobody_tells_is_found_by_looking(
    client: BranchStatusClient,
    forwarder: Forwarder,
    topology: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As on a file system that is not this kernel's. From then on it does not rest any more."""
    monkeypatch.setattr(SpoolWatch, "arm", lambda _: None)
    wait_for(lambda: forwarder.rests, "the forwarder to rest")
    client.start_mirroring(1)
    assert keys_at_broker(topology, 1) == ["branch:1"]
    assert LOOKS_AT_ALL_TIMES in caplog.text
    assert not forwarder.rests
    client.start_mirroring(2)
    assert keys_at_broker(topology, 1) == ["branch:2"]


def test_without_a_watch_it_looks_as_often_as_ever(
    client: BranchStatusClient,
    path: Path,
    topology: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As for a user who has too many already. The log says it once."""

    def refuse(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(watching, "_checked", refuse)
    monkeypatch.setattr(rhythm, "REST_SECONDS", LONG_SECONDS)
    caplog.set_level("INFO")
    forwarder = Forwarder(path, topology)
    forwarder.wake()
    try:
        for branch_id in (1, 2):
            client.start_mirroring(branch_id)
            assert keys_at_broker(topology, 1) == [f"branch:{branch_id}"]
        assert not forwarder.rests
    finally:
        forwarder.stop()
    assert caplog.text.count("cannot be watched") == 1


def test_a_frozen_forwarder_keeps_nobody_from_reporting(
    client: BranchStatusClient, shell: Shell, path: Path, topology: str
) -> None:
    """It reads nothing of what it is told; nothing is lost when it goes on."""
    with shell.running("mirror-publisher", "forward", "--spool", str(path)) as service:
        client.start_mirroring(1)
        assert keys_at_broker(topology, 1) == ["branch:1"]
        service.send_signal(signal.SIGSTOP)
        for _ in range(200):
            client.start_mirroring(2)
        service.send_signal(signal.SIGCONT)
        assert keys_at_broker(topology, 200) == ["branch:2"] * 200
