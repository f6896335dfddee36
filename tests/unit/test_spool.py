"""The spool: what it took is there, numbered without holes, until the broker has it."""

import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from mirrorfeed.contract import wire
from mirrorfeed.contract.events import InvalidEvent, MirrorStarted
from mirrorfeed.publisher import BranchStatusClient, SpoolError, SpoolFull
from mirrorfeed.publisher.client import default_spool_path
from mirrorfeed.publisher.errors import SpoolBusy
from mirrorfeed.publisher.spool import Spool
from tests.builders import at
from tests.spools import append, sequences, status_of

PATIENCE_SECONDS = 60
ADDED_IN_3 = ("base", "machine", "boot", "inode", "confirmed_at")
OLDER_SOURCES = {1: ("confirmed", *ADDED_IN_3), 2: ADDED_IN_3}
"""The columns that `source` did not have yet in each version."""
NO_USER = 2**31 - 2
"""A number that no user has."""
WAITS_SECONDS = 0.2
"""A call that takes longer than this is taken to wait for something."""


def sequences_in(path: Path) -> list[int]:
    with closing(Spool(path)) as spool:
        return sequences(spool)


def append_many(path: Path, count: int) -> None:
    spool = Spool(path)
    for number in range(count):
        append(spool, branch_id=os.getpid(), start=number)
    spool.close()


def append_for_ever(spool: Spool) -> None:
    for number in count():
        append(spool, start=number)


def test_events_are_numbered_from_1(spool: Spool) -> None:
    """The number is in the event that is sent, too."""
    append(spool)
    append(spool, start=1)
    events = spool.pending(after=0, limit=10)
    assert [event.sequence for event in events] == [1, 2]
    assert [wire.decode(event.body).sequence for event in events] == [1, 2]


def test_an_event_that_is_refused_leaves_no_hole(spool: Spool) -> None:
    """A bad argument undoes the whole transaction, its number too."""
    wrong_time = at(1)
    with pytest.raises(InvalidEvent), spool.writing() as writer:
        writer.append(MirrorStarted(1, at(0)), occurred_at=wrong_time)
    append(spool)
    assert sequences(spool) == [1]


def test_a_new_spool_is_a_new_source(tmp_path: Path) -> None:
    """Its numbers begin with 1 again and must not be taken for those of an older one."""
    sources = {status_of(tmp_path / name).source for name in ("a.db", "b.db")}
    assert len(sources) == 2
    assert all(source.startswith("/pullers/") for source in sources)


def test_a_reopened_spool_goes_on(tmp_path: Path) -> None:
    """Source and numbers outlive the process, even when all events are gone."""
    with closing(Spool(tmp_path / "spool.db")) as first:
        append(first)
        first.remove([1])
        source = first.status().source
    with closing(Spool(tmp_path / "spool.db")) as again:
        append(again)
        assert again.status().source == source
        assert sequences(again) == [2]


def test_the_account_is_always_closed(spool: Spool) -> None:
    """spooled = confirmed + pending + refused, and an event that is already gone is not confirmed
    again."""
    for number in range(5):
        append(spool, start=number)
    spool.remove([1, 2])
    spool.remove([2])
    spool.refuse(3, "too large")
    status = spool.status()
    assert (status.spooled, status.confirmed, status.pending, status.refused) == (5, 2, 2, 1)
    assert len(sequences(spool)) == status.pending
    assert status.oldest_pending_seconds is not None
    assert status.oldest_pending_seconds < PATIENCE_SECONDS


def test_what_was_refused_can_be_tried_again(spool: Spool) -> None:
    """Setting aside is not dropping."""
    append(spool)
    before = spool.pending(after=0, limit=1)
    spool.refuse(1, "too large")
    assert spool.restore_refused() == 1
    assert spool.pending(after=0, limit=1) == before
    assert spool.status().pending == 1


def test_one_event_is_found_by_its_number(spool: Spool) -> None:
    """It is found as long as it waits."""
    append(spool, branch_id=1)
    append(spool, branch_id=2)
    found = spool.event(2)
    assert found is not None
    assert found.partition_key == "branch:2"
    spool.remove([2])
    assert spool.event(2) is None


def test_who_removes_folds_the_log_so_that_no_append_has_to(spool: Spool) -> None:
    """An append that folds it takes several times as long as one that does not."""
    appends = 0

    def fill() -> None:
        nonlocal appends
        for _ in range(100):
            append(spool, start=appends)
            appends += 1

    log = spool.path.with_name(spool.path.name + "-wal")
    fill()
    spool.remove(sequences(spool))
    length = log.stat().st_size
    for _ in range(3):
        fill()
        spool.remove(sequences(spool))
    assert log.stat().st_size <= 1.5 * length


def test_processes_append_at_once_without_holes(tmp_path: Path) -> None:
    """Eight processes create the spool and append to it at the same time."""
    path = tmp_path / "spool.db"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=append_many, args=(path, 25)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 0
    assert sequences_in(path) == list(range(1, 8 * 25 + 1))


def test_threads_share_a_spool(spool: Spool) -> None:
    """Threads that append at the same time get numbers without holes."""
    with ThreadPoolExecutor(20) as threads:
        appending = [threads.submit(append, spool, number) for number in range(1, 21)]
        for each in appending:
            each.result(PATIENCE_SECONDS)
    assert sequences(spool) == list(range(1, 21))


@pytest.mark.parametrize("after_the_fork", ["client.start_mirroring(2)", "pass"])
def test_a_fork_inside_group_commit_raises_a_spool_error(
    tmp_path: Path, after_the_fork: str
) -> None:
    """It closes what is open, so nothing of the block is taken; the next call is."""
    path = tmp_path / "spool.db"
    story = f"""if True:
        import os, sys
        from mirrorfeed import BranchStatusClient
        from mirrorfeed.publisher import SpoolError
        client = BranchStatusClient(sys.argv[1], forward=False)
        try:
            with client.group_commit():
                client.start_mirroring(1)
                if not os.fork():
                    os._exit(0)
                {after_the_fork}
        except SpoolError:
            client.start_mirroring(3)
    """
    subprocess.run([sys.executable, "-c", story, str(path)], check=True, timeout=PATIENCE_SECONDS)
    assert sequences_in(path) == [1]


def test_parent_and_child_of_a_fork_both_append(tmp_path: Path) -> None:
    """A parent that ends first takes nothing of its child's along.

    SQLite would delete the journal under a child that inherited an open connection.
    """
    path = tmp_path / "spool.db"
    parent_ends, child_waits = os.pipe()[::-1]
    story = """if True:
        import os, sys
        from mirrorfeed import BranchStatusClient
        client = BranchStatusClient(sys.argv[1], forward=False)
        client.start_mirroring(1)
        if os.fork():
            client.start_mirroring(2)
            sys.exit()
        parent = os.getppid()
        client.start_mirroring(3)
        os.write(int(sys.argv[2]), b"half way")
        os.read(int(sys.argv[3]), 1)
        client.start_mirroring(4)
        client.close()
        os.write(int(sys.argv[2]), b"done")
    """
    reports, report_end = os.pipe()
    parent = subprocess.run(
        [sys.executable, "-c", story, str(path), str(report_end), str(child_waits)],
        pass_fds=(report_end, child_waits),
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    assert parent.returncode == 0
    os.close(report_end)
    assert os.read(reports, 100) == b"half way"
    os.write(parent_ends, b"!")
    assert os.read(reports, 100) == b"done"
    assert sequences_in(path) == [1, 2, 3, 4]


def test_a_call_from_a_signal_handler_during_a_call_is_refused(spool: Spool) -> None:
    """It would wait for itself for ever; the interrupted call succeeds."""

    def handler(number: int, frame: object) -> None:
        append(spool, start=2)

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(SpoolError, match="do not report from a signal handler"):
            append_and_interrupt(spool)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    append(spool)
    assert sequences(spool) == [1]


def append_and_interrupt(spool: Spool) -> None:
    with spool.writing() as writer:
        writer.append(MirrorStarted(1, at(0)), occurred_at=at(0))
        signal.raise_signal(signal.SIGUSR1)


def test_what_shares_a_commit_is_taken_or_refused_by_itself(spool: Spool) -> None:
    """A refused call leaves neither an event nor a hole in the numbers."""
    with spool.group_commit():
        append(spool)
        with pytest.raises(InvalidEvent):
            append_then_fail(spool)
        append(spool)
    assert sequences(spool) == [1, 2]
    append(spool)
    assert sequences(spool) == [1, 2, 3]


def append_then_fail(spool: Spool) -> None:
    with spool.writing() as writer:
        writer.append(MirrorStarted(1, at(0)), occurred_at=at(0))
        raise InvalidEvent("the second one is bad")


def test_a_block_that_raises_takes_nothing(spool: Spool) -> None:
    """Even what was appended before the error is not taken."""
    with pytest.raises(InvalidEvent):
        append_both(spool)
    assert sequences(spool) == []


def test_an_error_of_the_block_stays_what_it_is(spool: Spool) -> None:
    """The block belongs to the caller, so an OSError in it is not about the spool."""
    with pytest.raises(FileNotFoundError), spool.group_commit():
        raise FileNotFoundError("no repository")


def append_both(spool: Spool) -> None:
    with spool.group_commit():
        append(spool)
        append_then_fail(spool)


def test_a_part_of_a_commit_cannot_be_interrupted(spool: Spool) -> None:
    """A call from a signal handler is refused there too."""
    refused: list[SpoolError] = []

    def handler(number: int, frame: object) -> None:
        try:
            append(spool, start=2)
        except SpoolError as error:
            refused.append(error)

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        with spool.group_commit():
            append_and_interrupt(spool)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert "do not report from a signal handler" in str(refused[0])
    assert sequences(spool) == [1]


def test_a_commit_waits_for_another_writer_no_longer_than_it_is_told(spool: Spool) -> None:
    """Then the block does not begin, and later calls wait as long as usual."""
    with closing(Spool(spool.path)) as other:
        with (
            other.writing(),
            pytest.raises(SpoolBusy, match="another process keeps it locked"),
            spool.group_commit(timeout_seconds=0),
        ):
            pytest.fail("the block began")
        with spool.group_commit(timeout_seconds=0):
            append(spool)
    append(spool)
    assert spool._file.current().execute("PRAGMA busy_timeout").fetchone() == (30_000,)


def test_another_thread_waits_for_a_commit_it_has_no_part_in(spool: Spool) -> None:
    """Its call is durable when it returns, even if the block fails."""
    with ThreadPoolExecutor(1) as threads:
        appending: list[Future[None]] = []

        def begin_appending() -> None:
            appending.append(threads.submit(append, spool))
            assert not wait(appending, timeout=WAITS_SECONDS).done

        with pytest.raises(InvalidEvent):
            append_beside(spool, begin_appending)
        appending[0].result(PATIENCE_SECONDS)
    assert [event.sequence for event in spool.pending(after=0, limit=10)] == [1]


def append_beside(spool: Spool, begin_appending: Callable[[], None]) -> None:
    with spool.group_commit():
        begin_appending()
        append(spool)
        append_then_fail(spool)


def test_a_spool_that_gets_full_takes_nothing_of_the_commit(tmp_path: Path) -> None:
    """The block raises, and what comes next is taken."""
    with closing(Spool(tmp_path / "spool.db", limit_bytes=256 * 1024)) as spool:
        append(spool)
        with pytest.raises(SpoolFull):
            append_all(spool, 1000)
        append(spool)
        assert sequences(spool) == [1, 2]


def append_all(spool: Spool, count: int) -> None:
    with spool.group_commit():
        for number in range(count):
            append(spool, start=number)


def test_a_relative_path_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Daemons change their folder after opening the spool."""
    monkeypatch.chdir(tmp_path)
    spool = Spool(Path("spool.db"))
    monkeypatch.chdir("/")
    spool.close()
    append(spool)
    spool.close()
    assert sequences_in(tmp_path / "spool.db") == [1]


def test_a_full_spool_refuses_and_drops_nothing(tmp_path: Path) -> None:
    """It takes events again once the broker has taken some."""
    full = "is full, its limit is 262144 bytes: make sure that a"
    with closing(Spool(tmp_path / "spool.db", limit_bytes=256 * 1024)) as spool:
        with pytest.raises(SpoolFull, match=full):
            append_for_ever(spool)
        kept = sequences(spool)
        assert kept == list(range(1, len(kept) + 1))
        spool.remove(kept[:50])
        append(spool, start=20_000)
        assert sequences(spool)[-1] == len(kept) + 1


def test_a_file_that_is_no_spool_is_left_alone(tmp_path: Path) -> None:
    """The error names the file."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(SpoolError, match=r"notes\.txt cannot be used"):
        Spool(path)
    assert path.read_text().startswith("not a database")


def test_a_spool_of_another_version_is_left_alone(tmp_path: Path) -> None:
    """Nobody guesses at a format."""
    path = tmp_path / "spool.db"
    Spool(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SpoolError, match=r"not a spool of this version \(found 99"):
        Spool(path)


@pytest.mark.parametrize("version", OLDER_SOURCES)
def test_a_spool_of_an_older_version_is_taken_over(tmp_path: Path, version: int) -> None:
    """Its source, its pending events and its account are kept, and its numbers go on."""
    path = tmp_path / "spool.db"
    with closing(Spool(path)) as spool:
        for branch_id in (1, 2, 3):
            append(spool, branch_id)
        spool.remove([1])
        before = spool.status()
    with closing(sqlite3.connect(path)) as connection:
        for column in OLDER_SOURCES[version]:
            connection.execute(f"ALTER TABLE source DROP COLUMN {column}")
        connection.execute(f"PRAGMA user_version = {version}")
    with closing(Spool(path)) as spool:
        after = spool.status()
        append(spool)
        assert sequences(spool) == [2, 3, 4]
    assert (after.spooled, after.confirmed, after.pending) == (3, 1, 2)
    assert after.source == before.source


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The constructor fails rather than a later call."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be used"):
        BranchStatusClient(tmp_path / "file" / "spool.db", forward=False)


def test_without_a_system_folder_the_user_has_a_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the state folder of the XDG base directories."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("mirrorfeed.publisher.client.SYSTEM_SPOOL", tmp_path / "none" / "spool.db")
    assert default_spool_path() == tmp_path / "mirrorfeed" / "spool.db"
    (tmp_path / "none").mkdir(mode=stat.S_IRWXU)
    assert default_spool_path() == tmp_path / "none" / "spool.db"


def test_a_user_without_a_home_is_told_to_name_a_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No folder named ~ is made."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: NO_USER)
    monkeypatch.setattr("mirrorfeed.publisher.client.SYSTEM_SPOOL", tmp_path / "none" / "spool.db")
    with pytest.raises(
        SpoolError, match=r"has no home folder.* name a spool with MIRRORFEED_SPOOL"
    ):
        default_spool_path()


def test_a_home_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Debian's nobody has such a one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"file/home cannot be made: .* with MIRRORFEED_SPOOL"):
        Spool(tmp_path / "file" / "home" / "spool.db")
