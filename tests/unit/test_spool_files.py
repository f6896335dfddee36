"""The files of a spool: who may use them, and what happens if they are moved, copied or removed."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from mirrorfeed.contract import wire
from mirrorfeed.contract.events import MirrorStarted
from mirrorfeed.publisher import SpoolError, SpoolFull
from mirrorfeed.publisher.forward.lock import ForwarderLock
from mirrorfeed.publisher.kept import FOLDER, KeptEvents
from mirrorfeed.publisher.spool import Spool
from mirrorfeed.publisher.spool_access import beside, files_of
from mirrorfeed.publisher.spool_origin import Origin, origin_of
from tests.builders import at
from tests.spools import append, pending_in, status_of

LIMIT_BYTES = 1024 * 1024


def numbers_in(path: Path) -> list[int | None]:
    return [wire.decode(event.body).sequence for event in pending_in(path)]


def remove(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def modes_beside(path: Path) -> dict[str, int]:
    """By name, those of everything in the spool's folder."""
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0, 0o077, 0o177])
def test_a_new_spool_is_its_users_alone(tmp_path: Path, mask: int) -> None:
    """Folder and files, whatever the umask is."""
    path = tmp_path / "new" / "spool.db"
    with umask(mask), closing(Spool(path)) as spool:
        append(spool)
        lock = ForwarderLock(spool.path)
        assert lock.acquire()
        modes = modes_beside(path)
        lock.release()
    assert modes == dict.fromkeys(
        (f"spool.db{end}" for end in ("", "-wal", "-shm", ".forwarder")), 0o600
    )
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_folder_of_a_group_makes_a_spool_of_the_group(path: Path) -> None:
    """So users share a spool: the group may write all of its files, and others may not read them.
    The folder stays as it is."""
    path.parent.chmod(0o2770)
    with umask(0o077), closing(Spool(path)) as spool:
        append(spool)
        lock = ForwarderLock(spool.path)
        assert lock.acquire()
        modes = modes_beside(path)
        lock.release()
    assert set(modes.values()) == {0o660}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o2770


def test_what_is_kept_is_the_groups_too(path: Path) -> None:
    """The next user of the spool keeps events in the same folder."""
    path.parent.chmod(0o2770)
    with umask(0o077), closing(Spool(path)) as spool:
        append(spool)
        kept = KeptEvents(path, keep_seconds=60, limit_bytes=10**9)
        kept.add(spool.pending(after=0, limit=1))
        kept.close()
    folder = beside(path, FOLDER)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2770
    assert set(modes_beside(folder / "any").values()) == {0o660}


@pytest.mark.parametrize(("old", "new"), [(0o644, 0o600), (0o664, 0o660), (0o666, 0o660)])
def test_what_older_versions_let_everybody_read_is_closed(path: Path, old: int, new: int) -> None:
    """A group that may write keeps that right."""
    Spool(path).close()
    path.chmod(old)
    Spool(path).close()
    assert modes_beside(path) == {"spool.db": new}


def test_a_link_to_a_spool_is_the_same_spool(tmp_path: Path, spool: Spool) -> None:
    """It has the same lock, so that two forwarders do not send it both."""
    link = tmp_path / "link.db"
    link.symlink_to(spool.path)
    with closing(Spool(link)) as other:
        assert other.path == spool.path


def test_a_removed_spool_is_replaced_at_the_next_call(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    """The event is in the new file, as of a new source, and the log says so."""
    append(spool)
    source = spool.status().source
    remove(*files_of(spool.path))
    append(spool)
    assert numbers_in(spool.path) == [1]
    assert status_of(spool.path).source != source
    assert "removed or replaced while in use" in caplog.text


def test_a_replaced_spool_is_left_at_the_next_call(tmp_path: Path, spool: Spool) -> None:
    """What others made at the path meanwhile is the spool."""
    append(spool)
    remove(*files_of(spool.path))
    with closing(Spool(spool.path)) as other:
        append(other)
        append(spool)
    assert numbers_in(spool.path) == [1, 2]


def test_a_call_during_which_the_spool_is_removed_raises(spool: Spool) -> None:
    """Nobody would ever find its event. The next call is taken."""
    with pytest.raises(SpoolError, match="was removed or replaced during the call"):
        append_and_remove(spool)
    append(spool)
    assert numbers_in(spool.path) == [1]


def append_and_remove(spool: Spool) -> None:
    with spool.writing() as writer:
        writer.append(MirrorStarted(1, at(0)), occurred_at=at(0))
        remove(*files_of(spool.path))


def test_events_in_a_removed_log_are_kept(path: Path) -> None:
    """Somebody who finds the log too long removes it. Calls raise until everybody who had it open
    has noticed; then what was in it is in the file."""
    log = path.with_name("spool.db-wal")
    with closing(Spool(path)) as spool, closing(Spool(path)) as other:
        append(spool)
        append(other)
        remove(log)
        for each in (spool, other):
            with pytest.raises(SpoolError, match="removed or replaced during the call"):
                append(each)
        with pytest.raises(SpoolError, match=f"the log {log} was removed while"):
            append(spool)
        append(other)
        append(spool)
        assert numbers_in(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
def test_no_spool_is_made_beside_what_is_left_of_another(path: Path, ending: str) -> None:
    """SQLite would take it for a part of the new one. It is named, and stays."""
    left = path.with_name(path.name + ending)
    left.write_bytes(b"left")
    with pytest.raises(SpoolError, match=f"there is no spool .*, but there is {left}"):
        Spool(path)
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"left"]


def test_a_spool_that_loses_only_its_file_says_what_is_left(spool: Spool) -> None:
    """Nothing is made beside the log, in which the latest events may be."""
    append(spool)
    remove(spool.path)
    for _ in range(2):
        with pytest.raises(SpoolError, match=r"but there is .*spool\.db-wal and .*spool\.db-shm"):
            append(spool)
    assert not spool.path.exists()


def test_a_reader_stays_with_the_file_it_began_with(path: Path, spool: Spool) -> None:
    """It must not remove the events of another file because they have the same numbers."""
    append(spool)
    with closing(Spool(path, appends=False)) as reader:
        remove(*files_of(path))
        append(spool)
        assert not reader.is_at_its_path()
        with pytest.raises(SpoolError, match="removed or replaced"):
            reader.remove([1])
        reader.close()  # as before a fork
        with pytest.raises(SpoolError, match="removed or replaced"):
            reader.remove([1])
    assert numbers_in(path) == [1]


def test_a_copy_is_a_source_of_its_own(tmp_path: Path, path: Path) -> None:
    """It numbers from 1, sends what waits in it as it was, and its account is closed at any time;
    the original goes on."""
    with closing(Spool(path)) as spool:
        for branch_id in (1, 2, 3):
            append(spool, branch_id)
        spool.remove([2])
        spool.refuse(1, "too large")
    copied = tmp_path / "copy.db"
    shutil.copy(path, copied)
    original = status_of(path)
    with closing(Spool(copied)) as copy:
        assert (account(copy), copy.status().source != original.source) == ((0, 0, 1, 1), True)
        append(copy)
        old, new = (wire.decode(each.body) for each in copy.pending(after=0, limit=9))
        assert (old.source, old.sequence) == (original.source, 3)
        assert (new.source, new.sequence) == (copy.status().source, 1)
        copy.remove([each.sequence for each in copy.pending(after=0, limit=1)])
        assert account(copy)[0] == 1
        assert account(copy)[2:] == (1, 1)
        assert copy.unconfirmed(source=new.source, until=1) == (True, True)
        copy.restore_refused()
        copy.remove([each.sequence for each in copy.pending(after=0, limit=9)])
        assert account(copy) == (1, 1, 0, 0)
        assert copy.status().source != original.source
    with closing(Spool(path)) as spool:
        append(spool)
    assert status_of(path).source == original.source
    assert numbers_in(path) == [3, 4]


def account(spool: Spool) -> tuple[int, int, int, int]:
    status = spool.status()
    return status.spooled, status.confirmed, status.pending, status.refused


def test_a_spool_that_is_renamed_stays_its_source(tmp_path: Path, path: Path) -> None:
    """Nothing is there twice."""
    with closing(Spool(path)) as spool:
        append(spool)
    before = status_of(path)
    path.rename(tmp_path / "renamed.db")
    assert status_of(tmp_path / "renamed.db").source == before.source


@pytest.mark.parametrize("method", ["backup", "vacuum"])
def test_a_backup_can_be_used_as_a_spool(tmp_path: Path, path: Path, method: str) -> None:
    """However SQLite made it."""
    with closing(Spool(path)) as spool, closing(sqlite3.connect(path)) as connection:
        append(spool)
        source = spool.status().source
        if method == "backup":
            with closing(sqlite3.connect(tmp_path / "backup.db")) as target:
                connection.backup(target)
        else:
            connection.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
    with closing(Spool(tmp_path / "backup.db")) as backup:
        append(backup)
        assert backup.status().source != source
    assert numbers_in(tmp_path / "backup.db") == [1, 1]


HERE = Origin(machine="m1", boot="b1", inode=1)


@pytest.mark.parametrize(
    ("now", "is_copy"),
    [
        (HERE, False),
        (HERE._replace(boot="b2"), False),
        (HERE._replace(inode=2), True),
        (HERE._replace(boot="b2", machine="m2"), True),
        (HERE._replace(machine="m2"), False),
        (HERE._replace(boot="b2", machine=""), False),
    ],
    ids=["same", "reboot", "other file", "other machine", "container", "container without id"],
)
def test_what_makes_a_copy(now: Origin, is_copy: bool) -> None:
    """Another file, or another machine. Containers share the boot of their host."""
    assert now.is_copy_of(HERE) == is_copy


def test_a_cloned_machine_is_another_source(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the file has the same number on the disk; after that its source stays."""
    files = {path.with_name(name): constant for name, constant in ORIGINS.items()}
    for file, constant in files.items():
        file.write_text("one")
        monkeypatch.setattr(f"mirrorfeed.publisher.spool_origin.{constant}", file)
    Spool(path).close()
    first = status_of(path).source
    for file in files:
        file.write_text("another")
    second = status_of(path).source
    assert second != first
    assert status_of(path).source == second


ORIGINS = {"machine-id": "MACHINE_ID", "boot-id": "BOOT_ID"}


def test_a_machine_id_is_not_given_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not for others to know; one that is missing or not set yet is none."""
    Spool(path).close()
    file = path.with_name("machine-id")
    monkeypatch.setattr("mirrorfeed.publisher.spool_origin.MACHINE_ID", file)
    assert origin_of(path).machine == ""
    for unset in ("", "uninitialized\n"):
        file.write_text(unset)
        assert origin_of(path).machine == ""
    file.write_text("0123456789abcdef\n")
    assert len(origin_of(path).machine) == 64
    assert "0123456789abcdef" not in origin_of(path).machine


def test_a_reader_that_does_not_stop_makes_a_spool_full(path: Path) -> None:
    """The log cannot be merged beyond what it sees. File and log stay within the limit, the error
    names the log, and once the reader stops, calls are taken."""
    log = path.with_name("spool.db-wal")
    with closing(Spool(path, limit_bytes=LIMIT_BYTES)) as spool:
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM source").fetchall()
            with pytest.raises(
                SpoolFull, match=r"its log .*spool\.db-wal has \d+, .* is not merged"
            ):
                append_until_full(spool)
            size = path.stat().st_size + log.stat().st_size
            assert 0.9 * LIMIT_BYTES < size < 1.1 * LIMIT_BYTES
        append(spool)
        assert log.stat().st_size < LIMIT_BYTES / 10


def append_until_full(spool: Spool) -> None:
    for _ in range(10_000):
        append(spool)


def test_a_log_beyond_the_limit_is_merged(path: Path) -> None:
    """SQLite alone would let it grow to four times a small limit."""
    log = path.with_name("spool.db-wal")
    with closing(Spool(path, limit_bytes=LIMIT_BYTES)) as spool:
        for _ in range(200):
            append(spool)
            assert path.stat().st_size + log.stat().st_size < 1.1 * LIMIT_BYTES


def test_a_spool_that_was_full_once_is_not_slow_for_ever(path: Path) -> None:
    """Its file keeps its size, but the log is not merged at every call."""
    log = path.with_name("spool.db-wal")
    with closing(Spool(path, limit_bytes=LIMIT_BYTES // 4)) as spool:
        with pytest.raises(SpoolFull):
            append_until_full(spool)
        spool.remove(range(1, 10_001))
        sizes = []
        for _ in range(10):
            append(spool)
            sizes.append(log.stat().st_size)
    assert sum(after < before for before, after in pairwise(sizes)) <= 1
