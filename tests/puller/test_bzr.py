"""bzr branches are mirrored through breezy, with the same care."""

import os
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from mirrorfeed.puller import bzr_mirror
from mirrorfeed.puller.branch_list import Branch, Vcs
from mirrorfeed.puller.bzr_mirror import mirror_bzr, python_with_breezy
from mirrorfeed.puller.folder import Folder
from mirrorfeed.puller.git import Work
from mirrorfeed.puller.process import Limits, Processes
from mirrorfeed.puller.reasons import MirrorFailure
from mirrorfeed.puller.settings import Settings
from tests.pullers import TestPuller
from tests.upstreams import SshServer, WebServer, fingerprint, has_sshd

PYTHON = python_with_breezy()
pytestmark = pytest.mark.skipif(PYTHON is None, reason="breezy is not installed (Debian: brz)")


class BzrBranch:
    """A branch that others mirror, made by breezy's own command."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self("init", str(path))

    def __call__(self, *arguments: str, folder: Path | None = None) -> str:
        assert PYTHON is not None
        run = [PYTHON, "-c", "import sys; from breezy.__main__ import main; main()", *arguments]
        result = subprocess.run(
            run,
            cwd=folder,
            env={
                **os.environ,
                "BRZ_HOME": str(self.path.parent),
                "BRZ_EMAIL": "Ada <ada@example.org>",
                "BRZ_LOG": "/dev/null",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{arguments}: {result.stdout}\n{result.stderr}"
        return result.stdout

    def commit(self, text: str) -> str:
        """Gives the id of the new revision."""
        (self.path / "file").write_text(text)
        self("add", "-q", folder=self.path)
        self("commit", "-q", "-m", text, folder=self.path)
        return self.tip()

    def tip(self) -> str:
        lines = self("revision-info", "-d", str(self.path)).split()
        return lines[-1]


@pytest.fixture
def branch(root: Path) -> BzrBranch:
    found = BzrBranch(root / "b")
    found.commit("one")
    return found


def test_a_bzr_branch_is_mirrored(puller: TestPuller, branch: BzrBranch) -> None:
    """Its last revision is reported; what is uncommitted upstream counts, too."""
    first = branch.tip()
    puller.write_list([branch.path.as_uri()], vcs="bzr")
    puller.once()
    puller.once()
    second = branch.commit("two")
    puller.once()
    branch("uncommit", "--force", "-q", str(branch.path))
    puller.once()
    third = branch.commit("another two")
    puller.once()
    assert puller.outcomes() == [first, first, second, first, third]
    mirror = puller.into / "1.bzr"
    assert third in branch("revision-info", "-d", str(mirror))
    assert [each.name for each in mirror.iterdir()] == [".bzr"]


def test_a_bzr_branch_without_revisions_is_mirrored(puller: TestPuller, root: Path) -> None:
    """There is none to report."""
    puller.write_list([BzrBranch(root / "new").path.as_uri()], vcs="bzr")
    puller.once()
    assert puller.outcomes() == ["None"]


def test_a_revision_that_no_event_can_hold_is_not_reported(
    puller: TestPuller, branch: BzrBranch
) -> None:
    """But that the branch was mirrored is."""
    script = (
        "import breezy, breezy.bzr; from breezy.workingtree import WorkingTree\n"
        "with breezy.initialize():\n"
        f"    WorkingTree.open({str(branch.path)!r}).commit('x', rev_id=b'r' * 1025)"
    )
    assert PYTHON is not None
    environment = {**os.environ, "BRZ_HOME": str(puller.folder), "BRZ_EMAIL": "a@example.org"}
    subprocess.run([PYTHON, "-c", script], check=True, env=environment)
    puller.write_list([branch.path.as_uri()], vcs="bzr")
    puller.once()
    later = branch.commit("two")
    puller.once()
    assert puller.outcomes() == ["None", later]
    assert puller.reasons() == []


def test_what_is_no_bzr_branch_is_not_found(
    puller: TestPuller, branch: BzrBranch, web: WebServer
) -> None:
    """Nor what has vanished; then the mirror stays."""
    puller.write_list(
        {1: branch.path.as_uri(), 2: f"{web.url}/nothing", 3: "http://127.0.0.1:1/x"}, vcs="bzr"
    )
    puller.once(expect=1)
    assert [puller.outcome(each) for each in (2, 3)] == ["not-found", "network"]
    before = fingerprint(puller.into / "1.bzr")
    branch.path.rename(branch.path.with_name("elsewhere"))
    puller.once(expect=1)
    assert puller.outcome(1) == "not-found"
    assert fingerprint(puller.into / "1.bzr") == before


@pytest.mark.parametrize("leads", ["reference", "stacking"])
def test_a_branch_that_leads_elsewhere_is_refused(
    tmp_path: Path, branch: BzrBranch, root: Path, web: WebServer, leads: str
) -> None:
    """A remote branch has no say in which files are read."""
    puller = TestPuller(tmp_path, "http")
    lure = root / "lure"
    if leads == "reference":
        branch("checkout", "--lightweight", str(branch.path), str(lure))
    else:
        branch("branch", "-q", "--stacked", branch.path.as_uri(), str(lure))
    puller.write_list([f"{web.url}/files/lure"], vcs="bzr")
    puller.once(expect=1)
    assert puller.outcome() == "refused-url", puller.reason()
    assert "refused to follow the branch to" in puller.reason()
    assert not (puller.into / "1.bzr").exists()


@pytest.mark.skipif(not has_sshd(), reason="sshd is not installed (openssh-server)")
def test_a_bzr_branch_comes_over_ssh_from_a_known_host_only(
    puller: TestPuller, branch: BzrBranch, ssh: SshServer
) -> None:
    """Although breezy itself would believe any key of this machine."""
    puller.write_list([ssh.url(branch.path).replace("ssh:", "bzr+ssh:")])
    if shutil.which("bzr"):  # what runs on the other side
        puller.once()
        assert puller.outcome() == branch.tip()
    ssh.trust("other")
    puller.known_hosts.write_text(ssh.known_hosts.read_text())
    puller.once(expect=1)
    assert puller.outcome() == "host-key", puller.reason()


def test_a_lock_that_a_kill_has_left_is_broken(puller: TestPuller, branch: BzrBranch) -> None:
    """Nobody else writes to a mirror."""
    puller.write_list([branch.path.as_uri()], vcs="bzr")
    puller.once()
    tip = branch.commit("two")
    mirror = puller.into / "1.bzr"
    script = (
        "import sys, os, breezy, breezy.bzr; from breezy.branch import Branch\n"
        "with breezy.initialize():\n"
        f"    branch = Branch.open({str(mirror)!r}); branch.lock_write(); os._exit(0)"
    )
    assert PYTHON is not None
    subprocess.run([PYTHON, "-c", script], check=True)
    assert (mirror / ".bzr/branch/lock/held").exists()
    puller.once()
    assert puller.outcome() == tip


def test_without_breezy_only_bzr_branches_fail(
    puller: TestPuller, branch: BzrBranch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason says what to install."""
    bzr_mirror.python_with_breezy.cache_clear()
    monkeypatch.setattr(bzr_mirror, "PYTHONS", ())
    line = Branch(1, "b", branch.path.as_uri(), Vcs.BZR)
    folder = Folder(puller.into)
    with closing(Processes()) as processes:
        work = Work(processes, Limits(9, time.monotonic() + 9, 9), 0, "")
        with pytest.raises(MirrorFailure, match="apt-get install brz"):
            mirror_bzr(line, folder, Settings(), work)
    bzr_mirror.python_with_breezy.cache_clear()
