"""A mirror that stands in its own way is put right, and nothing else is touched."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from mirrorfeed.puller.healing import tidy
from tests.puller.lying import LyingServer
from tests.pullers import TestPuller
from tests.upstreams import GIT_ENVIRONMENT, Upstream, WebServer, fingerprint, git

LOCKS = ("refs/heads/main.lock", "packed-refs.lock", "HEAD.lock", "config.lock")


def age(path: Path) -> None:
    """Nobody has written to it for two hours: in a container, too, no git can have it."""
    long_ago = time.time() - 2 * 3600
    os.utime(path, (long_ago, long_ago))


def corrupt(mirror: Path) -> None:
    """Overwrites what is in each pack."""
    for pack in (mirror / "objects" / "pack").glob("*.pack"):
        pack.chmod(0o644)
        size = pack.stat().st_size
        with pack.open("r+b") as file:
            file.seek(12)
            file.write(bytes(size - 32))


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_that_nobody_holds_is_removed(
    puller: TestPuller, upstream: Upstream, lock: str
) -> None:
    """And the attempt succeeds after all."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    left = puller.mirror() / lock
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    age(left)
    upstream.commit()
    upstream.git("branch", "-m", "main", "trunk")
    upstream.commit("main")
    puller.once()
    assert puller.refs() == upstream.refs()
    assert not puller.reasons()


def test_in_a_container_only_what_is_old_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A git of the same user outside of it would not be seen."""
    lock = tmp_path / "packed-refs.lock"
    lock.touch()
    monkeypatch.setattr("mirrorfeed.puller.process.FIRST_PID_NAMESPACE", 0)
    assert tidy(tmp_path) == 0
    age(lock)
    assert tidy(tmp_path) == 1
    own = tmp_path / "packed-refs.mirrorfeed"
    own.touch()
    lock.hardlink_to(own)
    assert tidy(tmp_path) == 2  # what the puller itself writes, only the mirror's user does
    assert list(tmp_path.iterdir()) == []


def test_what_another_user_has_left_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However old: whether that user's git lives may be hidden from us."""
    lock = tmp_path / "packed-refs.lock"
    lock.touch()
    age(lock)
    monkeypatch.setattr("os.geteuid", lambda: lock.stat().st_uid + 1)
    assert tidy(tmp_path) == 0
    assert lock.exists()


def test_half_a_file_of_references_is_removed(puller: TestPuller, upstream: Upstream) -> None:
    """git itself makes no other as long as it is there."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    git("-C", puller.mirror(), "update-ref", "refs/heads/loose", "refs/heads/main")
    left = puller.mirror() / "packed-refs.new"
    left.write_text("half")
    age(left)
    puller.once()
    assert puller.refs() == upstream.refs()
    assert not left.exists()


def test_a_lock_that_a_live_git_holds_stays(puller: TestPuller, upstream: Upstream) -> None:
    """Its work is not disturbed; the attempt fails, and names the process."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    tip = puller.refs()["refs/heads/main"]
    holder = subprocess.Popen(
        ["git", "-C", puller.mirror(), "update-ref", "--stdin"],
        env={**os.environ, **GIT_ENVIRONMENT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        print(f"start\nupdate refs/heads/main {tip}\nprepare", file=holder.stdin, flush=True)
        assert holder.stdout.readline() == "start: ok\n"
        assert holder.stdout.readline() == "prepare: ok\n"
        lock = puller.mirror() / "refs/heads/main.lock"
        assert lock.exists()
        upstream.commit()
        puller.once(expect=1)
        assert puller.outcome() == "locked"
        assert f"process {holder.pid} works in the mirror" in puller.reason()
        assert lock.exists()
        print("commit", file=holder.stdin, flush=True)
        assert holder.stdout.readline() == "commit: ok\n"
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait()
    puller.once()
    assert puller.refs() == upstream.refs()


@pytest.mark.parametrize("content", [b"", b"\0" * 41, b"junk\n"])
def test_a_broken_reference_is_replaced(
    puller: TestPuller, upstream: Upstream, content: bytes
) -> None:
    """As a power cut leaves it."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    upstream.commit()
    upstream.commit("dev")
    puller.once()
    for name in ("main", "dev"):
        (puller.mirror() / "refs/heads" / name).write_bytes(content)
    puller.once()
    assert puller.refs() == upstream.refs()


def test_a_corrupt_mirror_is_made_anew_once_a_day(
    puller: TestPuller, upstream: Upstream, web: WebServer
) -> None:
    """A second time within a day a person must look."""
    upstream.commit(size=50_000)
    puller.write_list([f"{web.url}/git/a.git"])
    puller.once()
    before = inode(puller.mirror())
    corrupt(puller.mirror())
    upstream.commit()
    log = puller.once()
    assert "made a corrupt mirror anew" in log
    assert inode(puller.mirror()) != before
    assert puller.refs() == upstream.refs()
    git("-C", puller.mirror(), "fsck")
    corrupt(puller.mirror())
    upstream.commit()
    broken = fingerprint(puller.mirror())
    puller.once(expect=1)
    assert puller.outcome() == "corrupt"
    assert "made anew less than a day ago" in puller.reason()
    for name in ("HEAD", "config", "packed-refs"):
        assert fingerprint(puller.mirror())[name] == broken[name]
    assert list(puller.into.glob(".removed-*")) == []


def test_a_file_of_references_that_git_cannot_read_is_made_anew(
    puller: TestPuller, upstream: Upstream
) -> None:
    """With the rest of the mirror: nobody knows what else it has lost."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    file = puller.mirror() / "packed-refs"
    file.write_text(f"{file.read_text()}refs/heads/main refs/heads/evil\n")
    upstream.commit()
    log = puller.once()
    assert "made a corrupt mirror anew" in log
    assert "removed broken references" not in log
    assert puller.refs() == upstream.refs()


def add_old_commit(upstream: Upstream) -> str:
    """As many old histories have: there is no space before the e-mail address."""
    main = upstream.refs()["refs/heads/main"]
    commit = upstream.git("cat-file", "commit", main).replace("Ada <ada", "Ada<ada", 1)
    options = ("-t", "commit", "-w", "--stdin", "--literally")
    old = git("-C", upstream.path, "hash-object", *options, input_=commit + "\n")
    upstream.git("update-ref", "refs/heads/old", old)
    return old


SAID = (
    b"packed object 1234 (stored in x) is corrupt",
    b"sorry\nfatal: packed object 1234 (stored in x) is corrupt",
)


@pytest.mark.parametrize("said", SAID)
def test_nobody_else_can_say_that_our_mirror_is_corrupt(
    puller: TestPuller, upstream: Upstream, liar: LyingServer, said: bytes
) -> None:
    """The failure has that class, but no mirror is touched for it, not even a corrupt one."""
    puller.write_list([liar.url])
    puller.once()
    corrupt(puller.mirror())
    before = fingerprint(puller.mirror())
    liar.fail(said)
    puller.once(expect=1)
    assert puller.outcome() == "corrupt"
    assert fingerprint(puller.mirror()) == before


def test_an_old_history_is_not_corrupt(puller: TestPuller, upstream: Upstream) -> None:
    """Though git complains of it: a mirror that is suspected is not made anew for that."""
    add_old_commit(upstream)
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    command = ["git", "-C", str(puller.mirror()), "fsck"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode != 0
    assert "missingSpaceBeforeEmail" in found.stderr
    puller.note(is_suspect=True)
    before = inode(puller.mirror())
    puller.once()
    assert inode(puller.mirror()) == before
    corrupt(puller.mirror())
    puller.note(is_suspect=True)
    puller.once()
    assert inode(puller.mirror()) != before
    assert puller.refs() == upstream.refs()


def test_a_mirrors_own_references_survive_if_upstream_has_their_objects(
    puller: TestPuller, upstream: Upstream
) -> None:
    """When it is made anew; the log names the others."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    first = upstream.refs()["refs/heads/main"]
    own = Upstream(puller.mirror()).commit("own", text="nowhere else")
    git("-C", puller.mirror(), "update-ref", "-d", "refs/heads/own")
    git("-C", puller.mirror(), "update-ref", "refs/own/x", first)
    git("-C", puller.mirror(), "update-ref", "refs/own/y", own)
    git("-C", puller.mirror(), "repack", "-adq")
    corrupt(puller.mirror())
    upstream.commit()
    log = puller.once()
    assert "made a corrupt mirror anew" in log
    assert f"reference='refs/own/y' object={own}" in log
    assert puller.refs() == {**upstream.refs(), "refs/own/x": first}


def test_what_maintenance_finds_corrupt_is_made_anew(
    puller: TestPuller, upstream: Upstream
) -> None:
    """Nobody else may have looked at it for years."""
    upstream.commit(size=50_000)
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    corrupt(puller.mirror())
    before = inode(puller.mirror())
    puller.note(maintained_at=1.0)
    log = puller.shell.run(
        *puller.command("--once", "--all"), "--maintenance-interval", "1m"
    ).stderr
    assert "maintenance failed" in log
    log = puller.once()
    assert "made a corrupt mirror anew" in log
    assert inode(puller.mirror()) != before
    git("-C", puller.mirror(), "fsck")


def test_a_mirror_that_another_borrows_from_is_not_made_anew(
    puller: TestPuller, upstream: Upstream
) -> None:
    """That would take the other's objects away."""
    upstream.commit(size=50_000)
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    git("clone", "-q", "--bare", "--shared", puller.mirror(), puller.mirror(2))
    before = inode(puller.mirror())
    corrupt(puller.mirror())
    upstream.commit()
    puller.once(expect=1)
    assert puller.outcome() == "corrupt"
    assert f"{puller.mirror(2)} borrows objects from it" in puller.reason()
    assert inode(puller.mirror()) == before


def test_a_mirror_is_not_made_anew_for_what_upstream_did(
    puller: TestPuller, upstream: Upstream
) -> None:
    """Upstream itself is corrupt: the mirror stays."""
    upstream.commit(size=50_000)
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    before = fingerprint(puller.mirror())
    upstream.commit(size=50_000)
    upstream.git("repack", "-adq")
    corrupt(upstream.path)
    puller.once(expect=1)
    kept = {name: body for name, body in before.items() if not name.startswith("objects")}
    after = fingerprint(puller.mirror())
    assert {name: body for name, body in after.items() if not name.startswith("objects")} == kept
    git("-C", puller.mirror(), "fsck")


def test_a_replacement_that_was_cut_off_is_undone(puller: TestPuller, upstream: Upstream) -> None:
    """A kill between two renames leaves the old mirror, under another name."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    shutil.copytree(puller.mirror(), puller.into / ".incoming-1")
    puller.mirror().rename(puller.into / ".removed-1-0123-replaced.git")
    puller.once()
    assert puller.refs() == upstream.refs()
    assert [each.name for each in puller.into.iterdir() if each.name[0] == "."] == [".puller"]


def test_a_removal_that_was_cut_off_is_finished(puller: TestPuller, upstream: Upstream) -> None:
    """Half a mirror does not come back, nor does what an old first attempt has left."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    for name in (".removed-9-0123-pruned.git", ".incoming-8", ".removed-1-0123-replaced.git"):
        (puller.into / name / "objects").mkdir(parents=True)
    puller.once()
    assert sorted(each.name for each in puller.into.iterdir()) == [".puller", "1.git"]
    assert puller.refs() == upstream.refs()


def test_what_was_killed_in_the_middle_is_tidied_up(puller: TestPuller, upstream: Upstream) -> None:
    """A fetch that does not end in time leaves no half packs."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    upstream.commit(size=3_000_000)
    folder = puller.folder / "bin"
    folder.mkdir()
    script = folder / "git"
    pack = puller.mirror() / "objects/pack/tmp_pack_Ab12cd"
    real = shutil.which("git")
    script.write_text(
        f"#!/bin/sh\n"
        f'case "$*" in *fetch*) touch -d "2 hours ago" {pack}; sleep 600;; esac\n'
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    usual = puller.shell
    puller.also(PATH=f"{folder}:{os.environ['PATH']}")
    puller.once("--stall-timeout", "1s", expect=1)
    assert puller.outcome() == "timeout"
    assert not pack.exists()
    assert puller.programs() == []
    puller.shell = usual
    puller.once()
    assert puller.refs() == upstream.refs()
