"""A call that returned survives a power cut, however many wait for the disk at once."""

import errno
import os
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mirrorfeed.publisher import SpoolError
from mirrorfeed.publisher.forward.pipeline import Pipeline
from mirrorfeed.publisher.spool import Spool
from mirrorfeed.publisher.spool_access import LOG, beside
from mirrorfeed.publisher.spool_log import SpoolLog
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
    """Not by a later session either, which opens the spool anew: once the disk takes something
    again, the log is merged first."""
    append(spool)
    with monkeypatch.context() as disk:
        disk.setattr(os, "fdatasync", broken)
        for _ in range(2):
            with (
                closing(Spool(path, appends=False)) as reader,
                pytest.raises(SpoolError, match="Input/output error"),
            ):
                Pipeline(reader, window=10).take()
    append_without_sync(path)
    with closing(Spool(path, appends=False)) as reader:
        event = Pipeline(reader, window=10).take()
        assert log_bytes(path) == 0
    assert event is not None
    assert event.sequence == 1


def broken(_: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def append_without_sync(path: Path) -> None:
    """As an older version does, which knows of no gap."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE source SET confirmed_at = 1")


def test_a_call_that_the_log_does_not_take_is_written_to_the_file(
    path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If that works, it has survived, and its caller need not know."""
    for _ in range(10):
        append(spool)
    before = log_bytes(path)
    once = iter([broken])
    sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda log: next(once, sync)(log))
    append(spool)
    assert log_bytes(path) == 0
    append(spool)
    assert 0 < log_bytes(path) < before
    assert sequences(spool) == list(range(1, 13))


def test_each_call_is_told_what_became_of_it(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux tells an opened file of a failed write once, so no two calls share one. If they did,
    they would have one position in it."""
    positions: list[int] = []

    def sync(log: int) -> None:
        positions.append(os.lseek(log, 0, os.SEEK_CUR))
        os.lseek(log, 1, os.SEEK_SET)

    monkeypatch.setattr(os, "fdatasync", sync)
    for _ in range(3):
        append(spool)
    assert positions == [0, 0, 0]


def test_nobody_writes_behind_a_gap_in_the_log(
    path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever process comes next begins a new one, as soon as the disk takes something again."""
    for _ in range(10):
        append(spool)
    before = log_bytes(path)
    with monkeypatch.context() as disk:
        disk.setattr(os, "fdatasync", broken)
        with pytest.raises(SpoolError, match=r"did not take .*the event may come twice"):
            append(spool)
        with closing(Spool(path)) as other, pytest.raises(SpoolError, match="Input/output error"):
            append(other)
    append_without_sync(path)
    with closing(Spool(path)) as other:
        append(other)
    assert 0 < log_bytes(path) < before
    assert sequences(spool) == list(range(1, 13))
    append(spool)


def test_a_call_that_was_behind_a_gap_is_not_taken_for_safe(
    path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was committed after the write that failed, and before anybody was told of that."""
    append(spool)
    sync = os.fdatasync

    def sync_while_another_fails(log: int) -> None:
        sync(log)
        SpoolLog.of(path).note_gap()
        monkeypatch.setattr(os, "fdatasync", sync)

    monkeypatch.setattr(os, "fdatasync", sync_while_another_fails)
    append(spool)
    assert log_bytes(path) == 0
    assert sequences(spool) == [1, 2]


def test_a_log_that_sqlite_could_not_begin_is_begun_anew(
    path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It syncs the first page of a log by itself, and takes the commit back if that fails."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", partial(connect, factory=Unlucky))
    with closing(Spool(path)) as unlucky, pytest.raises(SpoolError, match="disk I/O error"):
        append(unlucky)
    append(spool)
    assert not SpoolLog.of(path).may_have_gap
    assert sequences(spool) == [1]


class Unlucky(sqlite3.Connection):
    """A connection whose commits fail."""

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            super().execute("ROLLBACK")
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return super().execute(statement, *arguments)


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
