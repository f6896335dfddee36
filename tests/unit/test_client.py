"""BranchStatusClient: which events a puller's calls become."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mirrorfeed.contract import wire
from mirrorfeed.contract.events import (
    Envelope,
    InvalidEvent,
    MirrorCompleted,
    MirrorFailed,
    MirrorStarted,
)
from mirrorfeed.publisher import AttemptNotStarted, BranchStatusClient, SpoolError
from mirrorfeed.publisher.spool import Spool
from tests.builders import at
from tests.servers import PATIENCE_SECONDS, wait_for
from tests.spools import pending_in

ROOT = Path(__file__).parents[2]
NOBODY_LISTENS = "amqp://127.0.0.1:1"
FORWARDER = "mirrorfeed forwarder"


@pytest.fixture
def client(path: Path) -> Iterator[BranchStatusClient]:
    client = BranchStatusClient(path, forward=False)
    yield client
    client.close()


def spooled(path: Path) -> list[Envelope]:
    return [wire.decode(event.body) for event in pending_in(path)]


def test_a_completed_attempt_ends_the_one_that_started(
    client: BranchStatusClient, path: Path
) -> None:
    """The outcome carries the start, and its own time."""
    client.start_mirroring(1)
    client.mirror_complete(1, "rev-1")
    start, end = spooled(path)
    assert isinstance(start.event, MirrorStarted)
    assert end.event == MirrorCompleted(1, start.event.started_at, "rev-1")
    assert end.time >= start.time


def test_one_process_starts_what_another_ends(client: BranchStatusClient, path: Path) -> None:
    """The spool remembers the open attempt of each branch."""
    client.start_mirroring(1)
    client.start_mirroring(2)
    with BranchStatusClient(path, forward=False) as other:
        other.mirror_failed(1, "no route to host")
    events = [envelope.event for envelope in spooled(path)]
    assert isinstance(events[2], MirrorFailed)
    assert isinstance(events[0], MirrorStarted)
    assert events[2].started_at == events[0].started_at


def test_completing_what_nobody_started_raises(client: BranchStatusClient, path: Path) -> None:
    """`last_mirrored` is when the mirror started, which nobody knows."""
    with pytest.raises(AttemptNotStarted, match="branch 1 has no attempt under way"):
        client.mirror_complete(1, "rev-1")
    client.start_mirroring(1)
    client.mirror_complete(1, "rev-1")
    with pytest.raises(AttemptNotStarted):
        client.mirror_complete(1, "rev-1")
    assert len(spooled(path)) == 2


def test_a_failure_without_a_start_failed_as_it_began(
    client: BranchStatusClient, path: Path
) -> None:
    """A puller may fail before it can start."""
    client.mirror_failed(1, "cannot resolve host")
    (envelope,) = spooled(path)
    assert isinstance(envelope.event, MirrorFailed)
    assert envelope.event.started_at == envelope.time


def test_what_has_begun_and_not_ended_is_known(client: BranchStatusClient, path: Path) -> None:
    """To every process that uses the spool, also after the one that began it was killed."""
    assert client.open_attempts() == {}
    begun = {branch_id: client.begin_attempt(branch_id) for branch_id in (1, 2, 3)}
    client.mirror_complete(1, "rev-1")
    client.mirror_failed(2, "no route to host")
    with closing(BranchStatusClient(path, forward=False)) as other:
        assert other.open_attempts() == {3: begun[3]}


def test_a_second_failure_is_a_second_attempt(client: BranchStatusClient, path: Path) -> None:
    """The first one has ended."""
    client.start_mirroring(1)
    client.mirror_failed(1, "first")
    client.mirror_failed(1, "second")
    events = [envelope.event for envelope in spooled(path)]
    assert len({getattr(event, "started_at", None) for event in events}) == 2


def test_the_block_reports_its_attempt(client: BranchStatusClient, path: Path) -> None:
    """The outcome has the revision that the block set."""
    with client.mirroring(1) as attempt:
        attempt.revision_id = "rev-1"
    start, end = (envelope.event for envelope in spooled(path))
    assert isinstance(start, MirrorStarted)
    assert end == MirrorCompleted(1, start.started_at, "rev-1")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("https://jane:s3cret@host refused"), "https://***@host refused"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("a\0b\ud800"), "ab?"),
        (ValueError("x" * 10_000), "x" * 8192),
    ],
)
def test_an_exception_in_the_block_is_the_reason(
    client: BranchStatusClient, path: Path, error: BaseException, reason: str
) -> None:
    """It also reaches the caller, and whatever its text is, an event can hold it."""
    with pytest.raises(type(error)), client.mirroring(1):
        raise error
    end = spooled(path)[-1].event
    assert isinstance(end, MirrorFailed)
    assert end.reason == reason


def test_an_overtaken_block_does_not_close_the_newer_attempt(
    client: BranchStatusClient, path: Path
) -> None:
    """Two processes may mirror one branch; each ends its own attempt."""
    with client.mirroring(1):
        client.start_mirroring(1)
    client.mirror_complete(1, "rev-2")
    first, second, first_end, second_end = (envelope.event for envelope in spooled(path))
    assert getattr(first_end, "started_at", None) == getattr(first, "started_at", 0)
    assert getattr(second_end, "started_at", None) == getattr(second, "started_at", 0)


def test_a_clock_set_back_a_little_does_not_reorder_attempts(
    client: BranchStatusClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers take the attempt that started last for the newest."""
    monkeypatch.setattr("mirrorfeed.publisher.client.datetime", ClockThatIsSetBack)
    for _ in range(3):
        client.start_mirroring(1)
    times = [envelope.time for envelope in spooled(path)]
    assert times == [
        at(0),
        at(0) + timedelta(microseconds=1),
        at(-7200),  # a clock that was hours ahead was wrong before
    ]


class ClockThatIsSetBack(datetime):
    seconds: Iterator[float] = iter([0, -60, -7200])

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return at(next(cls.seconds))


def test_passwords_in_reasons_are_masked(client: BranchStatusClient, path: Path) -> None:
    """They do not even reach the spool."""
    client.mirror_failed(1, "cannot read https://jane:s3cret@host/x")
    assert b"s3cret" not in path.read_bytes() + path.with_name("spool.db-wal").read_bytes()


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.start_mirroring(0),
        lambda client: client.start_mirroring("1"),
        lambda client: client.mirror_complete(1, 7),
        lambda client: client.mirror_failed(1, "x" * 8193),
        lambda client: client.mirror_failed(1, None),
        lambda client: client.record_success("gc", "vostok", datetime(2026, 1, 1), at(0)),
        lambda client: client.record_success("gc", "vostok", at(1), at(0)),
        lambda client: client.record_success("", "vostok", at(0), at(1)),
    ],
)
def test_a_bad_argument_raises_and_spools_nothing(
    client: BranchStatusClient, path: Path, call: Any
) -> None:
    """It is a ValueError, raised by the call that has the argument."""
    client.start_mirroring(1)
    with pytest.raises(InvalidEvent):
        call(client)
    assert len(spooled(path)) == 1


def test_the_original_names_work(client: BranchStatusClient, path: Path) -> None:
    """A puller written for the original client needs no change."""
    client.startMirroring(1)
    client.mirrorComplete(1, "rev-1")
    client.mirrorFailed(1, "reason")
    client.recordSuccess("gc", "vostok", at(0), at(1))
    types = [envelope.event.TYPE for envelope in spooled(path)]
    assert types == ["mirror.started", "mirror.completed", "mirror.failed", "script.run"]


def test_the_environment_names_the_spool(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A puller needs no configuration of its own."""
    monkeypatch.setenv("MIRRORFEED_SPOOL", str(path))
    with BranchStatusClient(forward=False) as client:
        client.start_mirroring(1)
    assert len(spooled(path)) == 1


@pytest.mark.parametrize("gather_seconds", [-1.0, float("nan")])
def test_no_time_can_be_negative(path: Path, gather_seconds: float) -> None:
    """Nothing was opened by then."""
    with pytest.raises(ValueError, match=f"must be 0 or more, not {gather_seconds}"):
        BranchStatusClient(path, gather_seconds=gather_seconds)
    assert not path.exists()


def test_a_bad_url_is_refused_without_its_password(path: Path) -> None:
    """The constructor raises the error, since no later call can."""
    with pytest.raises(ValueError, match="the AMQP URL cannot be read"):
        BranchStatusClient(path, "amqp://jane:s3cret@host:nonsense")


def test_times_are_utc(client: BranchStatusClient, path: Path) -> None:
    """The host's time zone does not matter."""
    client.start_mirroring(1)
    assert abs(datetime.now(UTC) - spooled(path)[0].time) < timedelta(minutes=1)


def test_the_readmes_sample_leaves_nothing_open(tmp_path: Path) -> None:
    """Python's development mode tells of each file and connection that nobody closed."""
    sample, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "BranchStatusClient" in sample
    path = tmp_path / "spool.db"
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-c", f"def mirror(): return 'rev-2'\n{sample}"],
        cwd=ROOT,
        env={**os.environ, "MIRRORFEED_SPOOL": str(path), "MIRRORFEED_AMQP_URL": NOBODY_LISTENS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    assert [envelope.event.TYPE for envelope in spooled(path)] == [
        "mirror.started",
        "mirror.completed",
        "mirror.failed",
        "mirror.started",
        "mirror.completed",
    ]


def test_a_client_closes_itself_at_the_end_of_a_block(path: Path) -> None:
    """It does so whatever ends the block, and what was reported stays."""
    with suppress(ZeroDivisionError), BranchStatusClient(path, NOBODY_LISTENS) as client:
        client.start_mirroring(1)
        wait_for(lambda: FORWARDER in running_threads(), "the forwarder to run")
        client.mirror_failed(1, str(1 // 0))
    wait_for(lambda: FORWARDER not in running_threads(), "the forwarder to end")
    assert open_files_in(path.parent) == []
    assert len(spooled(path)) == 1


def test_a_client_that_is_still_connecting_closes_its_socket(path: Path) -> None:
    """It does not wait for the garbage collector, which complains in development mode."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        client = BranchStatusClient(path, f"amqp://127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        with connection, closing(client):
            connection.settimeout(60)
            greeting = connection.recv(100)
            client.close()
            assert greeting.startswith(b"AMQP")
            assert connection.recv(100) == b""


def running_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def open_files_in(folder: Path) -> list[Path]:
    """Files there that this process has open."""
    links = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return [target for link in links if (target := link.resolve()).is_relative_to(folder)]


def test_the_account_is_that_of_the_spool(client: BranchStatusClient, path: Path) -> None:
    """It counts what was taken, confirmed and refused, by whichever process."""
    for branch_id in (1, 2, 3, 4):
        client.start_mirroring(branch_id)
    with closing(Spool(path)) as other:
        other.remove([1])
        other.refuse(2, "too large")
    status = client.status()
    assert (status.spooled, status.confirmed, status.pending, status.refused) == (4, 1, 2, 1)
    assert status.source == spooled(path)[0].source


def test_an_empty_spool_is_flushed(client: BranchStatusClient) -> None:
    """There is nothing to wait for."""
    assert client.flush(timeout_seconds=0)


def test_a_flush_ends_when_another_process_has_confirmed_all(
    client: BranchStatusClient, path: Path
) -> None:
    """A client that does not forward learns it from the spool."""
    for branch_id in (1, 2, 3):
        client.start_mirroring(branch_id)
    with ThreadPoolExecutor(1) as threads, closing(Spool(path)) as other:
        flushing = threads.submit(client.flush, timeout_seconds=PATIENCE_SECONDS)
        for sequence in (2, 1, 3):
            assert not client.flush(timeout_seconds=0)
            assert not flushing.done()
            other.remove([sequence])
        assert flushing.result(PATIENCE_SECONDS)


def test_calls_that_go_on_do_not_delay_a_flush(client: BranchStatusClient, path: Path) -> None:
    """It waits for what was spooled before it, not for the spool to be empty."""
    client.start_mirroring(1)
    with ThreadPoolExecutor(1) as threads, closing(Spool(path)) as other:
        flushing = threads.submit(client.flush, timeout_seconds=PATIENCE_SECONDS)
        while not flushing.done():
            client.start_mirroring(1)
            other.remove([client.status().spooled - 1])
        assert flushing.result()
    assert client.status().pending == 1


def test_a_refused_event_is_never_flushed(client: BranchStatusClient, path: Path) -> None:
    """`flush` says so as soon as nothing else is pending, whatever its timeout."""
    client.start_mirroring(1)
    client.start_mirroring(2)
    with closing(Spool(path)) as other:
        other.refuse(1, "too large")
        other.remove([2])
        began_at = time.monotonic()
        assert not client.flush(timeout_seconds=PATIENCE_SECONDS)
        assert time.monotonic() - began_at < PATIENCE_SECONDS
        other.restore_refused()
        other.remove([1])
    assert client.flush(timeout_seconds=0)


def test_a_flush_inside_group_commit_is_refused(client: BranchStatusClient) -> None:
    """What the block spools is not durable yet, so waiting for it would be in vain."""
    with pytest.raises(SpoolError, match="flush after the group_commit block"):
        flush_in_group_commit(client)
    assert client.status().spooled == 0


def flush_in_group_commit(client: BranchStatusClient) -> None:
    with client.group_commit():
        client.start_mirroring(1)
        client.flush(timeout_seconds=PATIENCE_SECONDS)


@pytest.mark.parametrize("timeout_seconds", [-1.0, float("nan")])
def test_a_timeout_that_is_none_is_named(
    client: BranchStatusClient, timeout_seconds: float
) -> None:
    """The error says what it should be."""
    with pytest.raises(ValueError, match=f"must be 0 or more, not {timeout_seconds}"):
        client.flush(timeout_seconds=timeout_seconds)
