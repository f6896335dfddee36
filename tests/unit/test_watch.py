"""What Linux tells of a spool's files."""

import ctypes
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.account import read_account
from mirrorfeed.publisher.forward.lock import ForwarderLock
from mirrorfeed.publisher.forward.watch import SpoolWatch
from mirrorfeed.publisher.spool import Spool
from mirrorfeed.publisher.spool_access import LOCK, LOG, beside


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Of a spool that a forwarder has open."""
    path = tmp_path / "spool.db"
    with BranchStatusClient(path, forward=False) as client:
        client.start_mirroring(1)
    lock = ForwarderLock(path)
    assert lock.acquire()
    with closing(Spool(path, appends=False)):
        yield path
    lock.release()


@pytest.fixture
def watch(path: Path) -> Iterator[SpoolWatch]:
    with SpoolWatch(path) as watch:
        watch.arm()
        yield watch


def report(path: Path) -> None:
    with BranchStatusClient(path, forward=False) as client:
        client.start_mirroring(2)


def test_an_event_that_anybody_appends_is_told_once(path: Path, watch: SpoolWatch) -> None:
    """The watch costs whoever appends next nothing, until it is armed again."""
    assert not watch.disarm()
    report(path)
    assert watch.disarm()
    report(path)
    assert not watch.disarm()
    watch.arm()
    assert not watch.disarm()
    report(path)
    assert watch.disarm()


def test_who_only_reads_is_not_told(path: Path, watch: SpoolWatch) -> None:
    """Status, metrics and other forwarders open the spool again and again."""
    read_account(path, 1)
    with BranchStatusClient(path, forward=False) as client:
        client.status()
    assert not ForwarderLock(path).acquire()
    assert not watch.disarm()


@pytest.mark.parametrize("ending", ["", LOCK])
def test_a_file_that_is_removed_or_replaced_is_told(
    path: Path, watch: SpoolWatch, ending: str
) -> None:
    """So that what was appended to the new one does not wait either."""
    file = beside(path, ending)
    file.rename(path.with_name("moved"))
    assert watch.disarm()
    path.with_name("moved").rename(file)
    watch.arm()
    assert not watch.disarm()
    path.with_name("new").touch()
    path.with_name("new").replace(file)
    assert watch.disarm()
    watch.arm()
    file.unlink()
    assert watch.disarm()


def test_a_log_that_is_not_there_cannot_be_watched(path: Path, watch: SpoolWatch) -> None:
    """Whoever asked goes on looking."""
    beside(path, LOG).unlink()
    with pytest.raises(FileNotFoundError):
        watch.arm()


def test_a_link_is_not_followed(tmp_path: Path, path: Path, watch: SpoolWatch) -> None:
    """Nobody can make a forwarder watch another file."""
    other = tmp_path / "other"
    other.touch()
    log = beside(path, LOG)
    log.unlink()
    log.symlink_to(other)
    watch.arm()
    other.write_text("not for us")
    assert not watch.disarm()


def test_a_system_without_inotify_is_an_error_that_is_known(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As is a user with too many watches."""
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    with pytest.raises(OSError, match="this system has no inotify"):
        SpoolWatch(path)
