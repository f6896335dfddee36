"""A call that returned survives a power cut, however many wait for the disk at once."""

import errno
import os
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mirrorfeed.publisher import SpoolError
from mirrorfeed.publisher.forward.pipeline import Pipeline
from mirrorfeed.publisher.spool import Spool
from mirrorfeed.publisher.spool_access import LOG, beside
from sandbox import wait_until
from tests.spools import append, sequences

PATIENCE_SECONDS = 60


def log_bytes(path: Path) -> int:
    return beside(path, LOG).stat().st_size


def test_what_a_call_took_is_on_the_disk_when_it_returns(
    tmp_path: Path, path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves what was synced: the spool as of the latest sync has the event."""
    left = tmp_path / "left"
    left.mkdir()
    sync = os.fdatasync

    def sync_and_note(log: int) -> None:
        sync(log)
        for file in (path, beside(path, LOG)):
            shutil.copy(file, left)

    monkeypatch.setattr(os, "fdatasync", sync_and_note)
    for number in range(1, 6):
        append(spool)
        with closing(sqlite3.connect(left / path.name)) as after_power_cut:
            ((found,),) = after_power_cut.execute("SELECT max(sequence) FROM event")
        assert found == number


def test_others_append_while_a_call_waits_for_the_disk(
    path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is free meanwhile, so many wait for the disk at the same time."""
    sync = os.fdatasync
    is_slow = iter([True])
    is_waiting, disk_is_back = threading.Event(), threading.Event()

    def sync_slowly_at_first(log: int) -> None:
        if next(is_slow, False):
            is_waiting.set()
            assert disk_is_back.wait(PATIENCE_SECONDS)
        sync(log)

    monkeypatch.setattr(os, "fdatasync", sync_slowly_at_first)
    with ThreadPoolExecutor(1) as threads, closing(Spool(path)) as other:
        try:
            first = threads.submit(append, spool)
            assert is_waiting.wait(PATIENCE_SECONDS)
            append(other)
            append(spool)
            assert sequences(other) == [1, 2, 3]
            assert not first.done()
        finally:
            disk_is_back.set()
        first.result(PATIENCE_SECONDS)


def test_nothing_is_sent_that_a_power_cut_may_take_back(
    path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number would be given out again: what the forwarder has read it syncs first."""
    append(spool)
    steps: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda _: steps.append("synced"))
    with closing(Spool(path, appends=False)) as reader:
        pipeline = Pipeline(reader, window=10)
        event = pipeline.take()
        steps.append("taken")
        assert pipeline.take() is None
    assert event is not None
    assert steps == ["synced", "taken"]


def test_what_the_disk_does_not_take_is_not_sent(
    path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays in the spool, and the forwarder tries again."""
    append(spool)
    with closing(Spool(path, appends=False)) as reader:
        pipeline = Pipeline(reader, window=10)
        monkeypatch.setattr(os, "fdatasync", broken)
        for _ in range(2):
            with pytest.raises(SpoolError, match="Input/output error"):
                pipeline.take()
        monkeypatch.setattr(os, "fdatasync", lambda _: None)
        event = pipeline.take()
    assert event is not None
    assert event.sequence == 1


def broken(_: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_call_that_the_disk_does_not_take_raises(
    path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after it is not written behind a gap in the log, but to a new one."""
    for _ in range(10):
        append(spool)
    before = log_bytes(path)
    with monkeypatch.context() as disk:
        disk.setattr(os, "fdatasync", broken)
        with pytest.raises(SpoolError, match=r"did not take .*the event may come twice"):
            append(spool)
    append(spool)
    assert 0 < log_bytes(path) < before
    assert sequences(spool) == list(range(1, 13))


def test_a_call_is_refused_while_the_log_may_have_a_gap(
    path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who reads keeps the log from being merged; once he has ended, calls are taken."""
    append(spool)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM event").fetchall()
        with monkeypatch.context() as disk:
            disk.setattr(os, "fdatasync", broken)
            with pytest.raises(SpoolError):
                append(spool)
        with pytest.raises(SpoolError, match=r"cannot be merged .* keeps reading it"):
            append(spool)
    append(spool)
    assert sequences(spool) == [1, 2, 3]


def test_who_waits_for_the_spool_asks_for_it_all_the_time(spool: Spool, path: Path) -> None:
    """Not ever more rarely, as SQLite does: among many, that one would hardly ever get it."""
    asked: list[str] = []
    spool._file.current().set_trace_callback(asked.append)
    with closing(Spool(path)) as other, ThreadPoolExecutor(1) as threads:
        with other.writing():
            appending = threads.submit(append, spool)
            wait_until(lambda: asked.count("BEGIN IMMEDIATE") > 20, PATIENCE_SECONDS, "asking")
        appending.result(PATIENCE_SECONDS)
    assert sequences(spool) == [1]
