"""Calls that share a commit, made in the thread of an event loop."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mirrorfeed.contract.events import InvalidEvent
from mirrorfeed.publisher.authserver import group_commit
from mirrorfeed.publisher.authserver.calls import Call
from mirrorfeed.publisher.authserver.group_commit import GroupCommit
from mirrorfeed.publisher.client import BranchStatusClient
from mirrorfeed.publisher.errors import SpoolBusy
from mirrorfeed.publisher.spool import Spool

PATIENCE_SECONDS = 10.0


@pytest.fixture
def client(tmp_path: Path) -> Iterator[BranchStatusClient]:
    with closing(BranchStatusClient(tmp_path / "spool.db", forward=False)) as client:
        yield client


@pytest.fixture
def path(client: BranchStatusClient, tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(Spool(path)) as other, other.writing():
        yield


def start_of(client: BranchStatusClient, branch_id: int) -> Call:
    return Call("startMirroring", client.start_mirroring, [branch_id])


def sequences(path: Path) -> list[int]:
    with closing(Spool(path)) as spool:
        return [event.sequence for event in spool.pending(after=0, limit=100)]


def test_a_bad_call_harms_none_that_shares_its_commit(
    client: BranchStatusClient, path: Path
) -> None:
    """It gets an error, the others are durable, and the numbers have no hole."""
    calls = [start_of(client, branch_id) for branch_id in (1, 0, 2)]

    async def make_all() -> None:
        spooling = GroupCommit(client)
        await asyncio.gather(*map(spooling.make, calls))

    asyncio.run(make_all())
    first, bad, last = calls
    assert isinstance(bad.error, InvalidEvent)
    assert first.error is None
    assert last.error is None
    assert sequences(path) == [1, 2]


def test_calls_that_come_at_once_share_a_commit(
    client: BranchStatusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them wait for the disk once."""
    commits: list[str] = []

    def traced(*args: object, **options: object) -> sqlite3.Connection:
        connection = connect(*args, **options)  # type: ignore[call-overload]
        connection.set_trace_callback(commits.append)
        return connection  # type: ignore[no-any-return]

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", traced)
    client.close()  # so that it connects again

    async def make_all() -> None:
        spooling = GroupCommit(client)
        await asyncio.gather(*(spooling.make(start_of(client, number)) for number in range(1, 9)))

    asyncio.run(make_all())
    assert commits.count("COMMIT") == 1


def test_the_loop_goes_on_while_the_spool_is_locked(
    client: BranchStatusClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that came meanwhile are made when it is free again."""
    calls = [start_of(client, branch_id) for branch_id in (1, 2)]
    refusals: list[SpoolBusy] = []

    @contextmanager
    def noted(*, timeout_seconds: float) -> Iterator[None]:
        try:
            with commit(timeout_seconds=timeout_seconds):
                yield
        except SpoolBusy as error:
            refusals.append(error)
            raise

    commit = client.group_commit
    monkeypatch.setattr(client, "group_commit", noted)

    async def make_all() -> None:
        spooling = GroupCommit(client)
        async with asyncio.timeout(PATIENCE_SECONDS):
            with locked(path):
                first = asyncio.create_task(spooling.make(calls[0]))
                while not refusals:
                    await asyncio.sleep(0)
                second = asyncio.create_task(spooling.make(calls[1]))
                while len(refusals) < 3:
                    await asyncio.sleep(0)
                assert not first.done()
            await asyncio.gather(first, second)

    asyncio.run(make_all())
    assert [call.error for call in calls] == [None, None]
    assert sequences(path) == [1, 2]


def test_a_call_gives_up_if_nobody_frees_the_spool(
    client: BranchStatusClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call gets an error, and the next one is made once the spool is free."""
    monkeypatch.setattr(group_commit, "BUSY_TIMEOUT_SECONDS", 0.05)
    refused, taken = start_of(client, 1), start_of(client, 2)

    async def make_both() -> None:
        spooling = GroupCommit(client)
        async with asyncio.timeout(PATIENCE_SECONDS):
            with locked(path):
                await spooling.make(refused)
            await spooling.make(taken)

    asyncio.run(make_both())
    assert isinstance(refused.error, SpoolBusy)
    assert "another process keeps it locked" in str(refused.error)
    assert taken.error is None
    assert sequences(path) == [1]
