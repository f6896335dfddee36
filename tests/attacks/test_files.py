"""What other users of a puller's host, and its operators' mistakes, can do to a spool."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from xmlrpc.client import ServerProxy

import pytest
from sqlalchemy import Engine

from mirrorfeed.contract import environment, wire
from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.forward.forwarder import Forwarder
from mirrorfeed.publisher.kept import kept_events
from mirrorfeed.publisher.spool import Spool
from mirrorfeed.publisher.spool_access import files_of
from tests.commands import Shell
from tests.servers import PATIENCE_SECONDS, register_branches, rows, take_all, wait_for
from tests.spools import status_of

NOBODY = 65534
AS_NOBODY = """
import os, sys
import mirrorfeed.publisher.cli, mirrorfeed.publisher.forward.forwarder, mirrorfeed.publisher.spool
from mirrorfeed import BranchStatusClient
path = sys.argv[1]
os.setgroups([]), os.setgid(65534), os.setuid(65534)
"""
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def path(shell: Shell) -> Path:
    return Path(shell.variables[environment.SPOOL])


def as_nobody(path: Path, script: str) -> str:
    """What a script prints in which another user meets the spool."""
    result = subprocess.run(
        [sys.executable, "-c", AS_NOBODY + dedent(script), str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return result.stdout + result.stderr


@only_root
def test_other_users_can_neither_read_nor_lock_a_spool(folder: Path) -> None:
    """Whatever the umask of whoever made it: its lock needs no more than the right to read."""
    story = """
    for file in os.scandir(os.path.dirname(path)):
        try:
            os.open(file, os.O_RDONLY)
        except PermissionError:
            print("no")
        else:
            print("can open", file)
    """
    before = os.umask(0)
    try:
        with BranchStatusClient(folder / "spool.db", NOBODY_LISTENS) as client:
            client.mirror_failed(1, "no access to https://host/secret")
            lock = folder / "spool.db.forwarder"
            wait_for(lock.exists, "the forwarder")
            assert as_nobody(folder / "spool.db", story) == "no\n" * 4
    finally:
        os.umask(before)


NOBODY_LISTENS = "amqp://guest:guest@127.0.0.1:1/%2F"


@only_root
@pytest.mark.parametrize("readable", ["spool.db", "spool.db.forwarder"])
def test_a_spool_of_another_user_is_said_to_be_one(
    folder: Path, topology: str, readable: str
) -> None:
    """Who may only read it publishes nothing: it could not be removed, and each run would publish
    it again."""
    path = folder / "spool.db"
    with closing(Spool(path)), BranchStatusClient(path, NOBODY_LISTENS) as client:
        client.start_mirroring(1)
        wait_for((folder / "spool.db.forwarder").exists, "the forwarder")
    for file in files_of(path):
        if file.exists():
            os.chown(file, NOBODY, NOBODY)
    os.chown(folder, NOBODY, NOBODY)
    os.chown(folder / readable, 0, 0)
    (folder / readable).chmod(0o644)
    story = f"""
    os.environ["MIRRORFEED_AMQP_URL"] = "{topology}"
    sys.argv = ["mirror-publisher", "forward", "--drain", "--spool", path]
    mirrorfeed.publisher.cli.main()
    """
    said = as_nobody(path, story)
    assert f"nobody may not write to {folder / readable}, which belongs to root" in said
    assert "name another spool with MIRRORFEED_SPOOL" in said
    assert status_of(path).confirmed == 0


@only_root
def test_what_root_spools_belongs_to_the_folders_owner(folder: Path) -> None:
    """A command that root types does not keep the service from its spool."""
    os.chown(folder, NOBODY, NOBODY)
    path = folder / "spool.db"
    with BranchStatusClient(path, NOBODY_LISTENS) as client:
        client.start_mirroring(1)
        wait_for((folder / "spool.db.forwarder").exists, "the forwarder")
        owners = {file.stat().st_uid for file in folder.iterdir()}
        said = as_nobody(path, "BranchStatusClient(path, forward=False).start_mirroring(2)")
    assert owners == {NOBODY}
    assert said == ""
    assert status_of(path).spooled == 2


@only_root
def test_what_root_keeps_belongs_to_the_folders_owner(folder: Path, shell: Shell) -> None:
    """A drain that root types does not keep the service from keeping what it sends."""
    os.chown(folder, NOBODY, NOBODY)
    path = folder / "spool.db"
    shell.run("mirror-publisher", "started", "1", "--spool", str(path))
    shell.run("mirror-publisher", "forward", "--drain", "--spool", str(path))
    story = """
    from pathlib import Path
    from mirrorfeed.publisher.kept import KeptEvents
    from mirrorfeed.publisher.spool import SpooledEvent
    kept = KeptEvents(Path(path), keep_seconds=60, limit_bytes=10**9)
    kept.add([SpooledEvent(2, "id", "type", "key", b"body")])
    kept.close()
    """
    assert as_nobody(path, story) == ""
    assert [kept.sequence for kept in kept_events(path)] == [1, 2]


def test_a_lock_that_is_a_link_is_not_followed(
    shell: Shell, path: Path, tmp_path: Path, topology: str
) -> None:
    """The file it leads to is neither made nor locked, and the log says what is to be removed."""
    shell.run("mirror-publisher", "started", "1")
    lock, elsewhere = path.with_name("spool.db.forwarder"), tmp_path / "elsewhere"
    lock.symlink_to(elsewhere)
    result = shell.run("mirror-publisher", "forward", "--drain", expect=2)
    assert f"{lock} is a symbolic link: remove it" in result.stderr
    assert not elsewhere.exists()
    lock.unlink()
    shell.run("mirror-publisher", "forward", "--drain")
    assert len(take_all(topology, 1)) == 1


def test_a_forwarder_says_which_process_it_waits_for(shell: Shell, path: Path) -> None:
    """Whoever holds the lock, and whatever it is for."""
    shell.run("mirror-publisher", "started", "1")
    with path.with_name("spool.db.forwarder").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = shell.run(
            "mirror-publisher", "forward", "--drain", "--stall-seconds", "0.5", expect=1
        )
    holder = f"process {os.getpid()}"
    assert result.stderr.count(f"{holder} forwards this spool; waiting for it to end") == 1
    assert f"events that {holder} did not take: 1" in result.stderr


def test_calls_after_the_spool_was_removed_are_not_lost(
    shell: Shell, path: Path, topology: str
) -> None:
    """The authserver answers True only for what is in the file at the path, and sends that."""
    with (
        shell.running("mirror-publisher", "authserver", "--port", "0") as process,
        ServerProxy(url_of(process)) as server,
    ):
        assert server.startMirroring(1)
        assert len(take_all(topology, 1)) == 1
        for file in files_of(path):
            file.unlink(missing_ok=True)
        assert server.startMirroring(2)
        assert status_of(path).spooled == 1
        assert len(take_all(topology, 1)) == 1


def url_of(authserver: "subprocess.Popen[str]") -> str:
    assert authserver.stderr is not None
    urls = (re.search(r"http://\S+", line) for line in authserver.stderr)
    return next(url[0] for url in urls if url)


def test_a_running_forwarder_sends_the_new_spool(shell: Shell, path: Path, topology: str) -> None:
    """It does not keep to the file that was removed."""
    with shell.running("mirror-publisher", "forward"):
        for branch_id in (1, 2):
            shell.run("mirror-publisher", "started", str(branch_id))
            assert len(take_all(topology, 1)) == 1
            for file in files_of(path):
                file.unlink(missing_ok=True)


def test_what_calls_put_into_a_removed_spool_is_still_sent(path: Path, topology: str) -> None:
    """As far as a running forwarder has the file open."""
    count = 200
    with BranchStatusClient(path, forward=False) as client, client.group_commit():
        for _ in range(count):
            client.start_mirroring(1)
    forwarder = Forwarder(path, topology, window=1)
    forwarder.wake()
    try:
        first = take_all(topology, 1)
        for file in files_of(path):
            file.unlink(missing_ok=True)
        rest = take_all(topology, count - len(first))
    finally:
        forwarder.stop()
    numbers = [wire.decode(body).sequence for _, body in first + rest]
    assert numbers == list(range(1, count + 1))


def test_a_copied_spool_closes_its_own_account(
    shell: Shell, path: Path, tmp_path: Path, engine: Engine
) -> None:
    """A spool that was restored or cloned numbers no event as another one was numbered, and the
    audit misses nothing of either."""
    register_branches(engine, 1, 2)
    shell.run("mirror-publisher", "started", "1")
    copy = Shell({**shell.variables, environment.SPOOL: str(tmp_path / "copy" / "spool.db")})
    shutil.copytree(path.parent, tmp_path / "copy", ignore=lambda *_: {"copy"})
    shell.run("mirror-publisher", "failed", "1", "why")
    copy.run("mirror-publisher", "failed", "2", "why")
    for each in (shell, copy):
        each.run("mirror-publisher", "forward", "--drain")
    shell.run("mirror-consumer", "run", "--drain")
    audit = json.loads(shell.run("mirror-consumer", "audit", "--json").stdout)
    assert sorted(source["highest"] for source in audit["sources"]) == [1, 2]
    assert rows(engine, "SELECT id, mirror_failures FROM branch ORDER BY id") == [(1, 1), (2, 1)]


def test_a_user_without_a_home_is_told_to_name_a_spool(shell: Shell) -> None:
    """Nothing is made in the folder where the command runs."""
    no_home = Shell({**shell.variables, environment.SPOOL: "", "HOME": "/proc/none"})
    result = no_home.run("mirror-publisher", "started", "1", expect=2)
    assert "cannot be made" in result.stderr
    assert "MIRRORFEED_SPOOL" in result.stderr
