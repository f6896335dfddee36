"""The reason of a failure, from what real git says in the states in which it fails."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mirrorfeed.publisher.reasons import reason_in

CUT_AFTER_BYTES = 150_000
"""More than two packets, however large git makes them: it uses none that is not whole."""
CUTTING_UPLOAD_PACK = f"""#!{sys.executable}
import os, select, subprocess, sys
sender = subprocess.Popen(["git-upload-pack", sys.argv[-1]], stdout=subprocess.PIPE)
left = {CUT_AFTER_BYTES}
while left and (chunk := os.read(sender.stdout.fileno(), left)):
    left -= os.write(1, chunk)
sender.kill()
if os.environ.get("STAYS_OPEN"):
    gone = select.poll()
    gone.register(1, 0)
    gone.poll()
"""
"""What the other side is when a connection breaks off, or says nothing more."""


class Git:
    """Real git in a folder of its own, with nobody's settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }
        (folder / ".gitconfig").write_text(
            "[user]\nname = n\nemail = e\n[init]\ndefaultBranch = main\n"
            "[receive]\ndenyCurrentBranch = ignore\n[fetch]\nparallel = 1\n"
        )

    def __call__(self, *arguments: str, **variables: str) -> bytes:
        """What it writes to standard error."""
        return subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env={**self.environment, **variables},
            capture_output=True,
            check=False,
        ).stderr

    def commit(self, repository: str, file: str, content: bytes = b"x") -> None:
        (self.folder / repository / file).write_bytes(content)
        self("-C", repository, "add", file)
        self("-C", repository, "commit", "-qm", file)

    def script(self, path: str, text: str) -> str:
        file = self.folder / path
        file.write_text(text)
        file.chmod(0o755)
        return str(file)


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """With a repository that has a mirror and a clone, behind which it has moved on."""
    git = Git(tmp_path)
    git("init", "-q", "origin")
    git.commit("origin", "a", os.urandom(100_000))
    git("-C", "origin", "branch", "dev")
    git("clone", "-q", "--mirror", "origin", "mirror")
    git("clone", "-q", "origin", "clone")
    git("-C", "origin", "branch", "-D", "dev")
    git.commit("origin", "b", os.urandom(100_000))
    return git


@pytest.fixture
def forbidding_server() -> Iterator[str]:
    """The URL of a server that knows nobody."""

    class Forbidding(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(HTTPStatus.UNAUTHORIZED)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Forbidding) as server, ThreadPoolExecutor(1) as threads:
        serving = threads.submit(server.serve_forever, poll_interval=0.01)
        yield f"127.0.0.1:{server.server_port}/x"
        server.shutdown()
        serving.result()


def stale_lock(git: Git) -> bytes:
    (git.folder / "mirror/refs/heads/dev.lock").touch()
    return git("-C", "mirror", "fetch", "--prune")


def push_of_a_clone_that_is_behind(git: Git) -> bytes:
    git.commit("clone", "c")
    return git("-C", "clone", "push", "origin", "main")


def push_that_a_hook_declines(git: Git) -> bytes:
    git.script("origin/.git/hooks/pre-receive", "#!/bin/sh\necho no pushes on Friday >&2\nexit 1\n")
    git.commit("clone", "c")
    return git("-C", "clone", "push", "--force", "origin", "main")


def fetch_of_all_remotes(url: str, git: Git) -> bytes:
    git("-C", "clone", "remote", "add", "b", url)
    return git("-C", "clone", "fetch", "--all")


def local_changes(git: Git) -> bytes:
    git.commit("origin", "a")
    (git.folder / "clone/a").write_text("mine")
    return git("-C", "clone", "pull", "--ff-only")


def connection_that_breaks_off(git: Git) -> bytes:
    other = git.script("other", CUTTING_UPLOAD_PACK)
    return git("clone", "--progress", "--no-local", "--upload-pack", other, "origin", "new")


def clone_killed_in_mid_progress(git: Git) -> bytes:
    other = git.script("other", CUTTING_UPLOAD_PACK)
    process = subprocess.Popen(
        ["git", "clone", "--progress", "--no-local", "--upload-pack", other, "origin", "new"],
        cwd=git.folder,
        env={**git.environment, "STAYS_OPEN": "1"},
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    written = b""
    while b"Receiving objects:" not in written:
        written += (chunk := os.read(process.stderr.fileno(), 4096))
        assert chunk, written
    process.terminate()
    return written + process.communicate()[1]


COULD_NOT_READ = r"fatal: Could not read from remote repository\."
NO_SSH = pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")
STATES = [
    pytest.param(
        lambda git: git("ls-remote", "ssh://nobody@127.0.0.1:1/x"),
        [r"ssh: connect to host 127\.0\.0\.1 port 1: Connection refused", COULD_NOT_READ],
        id="ssh is refused", marks=NO_SSH,
    ),
    pytest.param(
        lambda git: git("ls-remote", "ssh://no-such-host.invalid/x"),
        [r"ssh: Could not resolve hostname no-such-host\.invalid: .+", COULD_NOT_READ],
        id="ssh does not find the host", marks=NO_SSH,
    ),
    pytest.param(
        lambda git: git("-C", "mirror", "fetch", GIT_TEST_ASSUME_DIFFERENT_OWNER="1"),
        [r"fatal: (detected dubious ownership|unsafe repository).+"],
        id="dubious ownership",
    ),
    pytest.param(
        stale_lock,
        [r"error: (cannot lock ref '.+/dev': Unable to create '.+/dev\.lock': File exists\.\n"
         r"error: could not (remove reference|delete references).+"
         r"|could not delete reference .+/dev: cannot lock ref '.+/dev\.lock': File exists\.)"],
        id="stale lock",
    ),
    pytest.param(
        push_of_a_clone_that_is_behind,
        [r"To .+/origin", r"! \[rejected\] +main -> main \((fetch first|non-fast-forward)\)",
         r"error: failed to push some refs to '.+/origin'"],
        id="rejected push",
    ),
    pytest.param(
        push_that_a_hook_declines,
        [r"remote: no pushes on Friday", r"To .+/origin",
         r"! \[remote rejected\] main -> main \(pre-receive hook declined\)",
         r"error: failed to push some refs to '.+/origin'"],
        id="push declined by a hook",
    ),
    pytest.param(
        partial(fetch_of_all_remotes, "../no-such"),
        [r"fatal: '../no-such' does not appear to be a git repository", COULD_NOT_READ,
         r"error: could not fetch b"],
        id="fetch --all, no repository",
    ),
    pytest.param(
        partial(fetch_of_all_remotes, "ssh://nobody@127.0.0.1:1/x"),
        [r"(.+\n){0,2}ssh: connect to host 127\.0\.0\.1 port 1: Connection refused", COULD_NOT_READ,
         r"error: could not fetch b"],
        id="fetch --all, ssh is refused", marks=NO_SSH,
    ),
    pytest.param(
        connection_that_breaks_off,
        [r"(.+\n){0,2}fetch-pack: unexpected disconnect.*", r"fatal: early EOF",
         r"fatal: fetch-pack: invalid index-pack output"],
        id="connection breaks off",
    ),
    pytest.param(
        lambda git: git("clone", "--mirror", "/no/such"),
        [r"fatal: repository '/no/such' does not exist"],
        id="no repository",
    ),
    pytest.param(
        lambda git: git("-C", "/no/such", "fetch"),
        [r"fatal: cannot change to '/no/such': No such file or directory"],
        id="no folder",
    ),
    pytest.param(
        lambda git: git("-C", "mirror", "fetch", "origin", "no-such-branch"),
        [r"fatal: couldn't find remote ref no-such-branch"],
        id="no branch",
    ),
    pytest.param(
        local_changes,
        [r"error: Your local changes to the following files would be overwritten by merge:", "a"],
        id="local changes",
    ),
    pytest.param(
        lambda git: git("fetcch"),
        [r"git: 'fetcch' is not a git command\. See 'git --help'\.",
         r"The most similar command is", "fetch"],
        id="no error is marked",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fail", "expected"), STATES)
def test_the_reason_says_why_git_failed(
    git: Git, fail: Callable[[Git], bytes], expected: list[str]
) -> None:
    """Neither advice nor progress, but the error, and what led to it."""
    output = fail(git)
    reason = reason_in(output)
    assert reason is not None
    assert re.fullmatch("\n".join(expected), reason), output.decode()


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", r"fatal: could not read Username for 'http://127.+': terminal prompts disabled"),
        ("jane:s3cret@", r"fatal: Authentication failed for 'http://.+/x/'"),
    ],
)
def test_the_reason_says_that_a_server_knows_nobody(
    git: Git, forbidding_server: str, user: str, expected: str
) -> None:
    """With wrong credentials, and with none."""
    output = git("ls-remote", f"http://{user}{forbidding_server}")
    assert re.fullmatch(expected, reason_in(output) or ""), output.decode()


def test_progress_is_no_reason(git: Git) -> None:
    """A clone that is killed has said nothing about it."""
    output = clone_killed_in_mid_progress(git)
    assert b"Receiving objects:" in output
    assert (reason_in(output) or "").startswith("Cloning into")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"", None),
        (b"\n \r\n\x1b[K\n", None),
        (b"one\n\ntwo\r\nthree\nfour\n", "two\nthree\nfour"),
        (b"error: old\nnoise\nfatal: new\nmore", "fatal: new"),
        (b"10%\r20%\rfatal: x", "fatal: x"),
        (b"fatal: x\r30%", "fatal: x"),
        (b"\x1b[31mfatal: x\x1b[m\x1b[K\n\x1b[33mhint: y\x1b[m\n", "fatal: x"),
        (b"bzr: ERROR: Not a branch: /x\n", "bzr: ERROR: Not a branch: /x"),
        (b"  32,768  50%  31.25MB/s  0:00:01\rrsync error: timeout (code 30)",
         "rsync error: timeout (code 30)"),
        (b"error: " + b"x" * 100_000, "error: " + "x" * 100_000),
        (b"".join(b"error: %d\n" % number for number in range(100)),
         "\n".join(f"error: {number}" for number in range(94, 100))),
    ],
)  # fmt: skip
def test_any_output_has_its_reason(output: bytes, expected: str | None) -> None:
    """That of other programs, of terminals, and none."""
    assert reason_in(output) == expected


@pytest.mark.parametrize(
    "part", [b"\x1b[", b"\x1b]", b"a" * 50 + b": ", b"error: x\r", b"1,", b"\t"]
)
def test_the_time_is_proportional_to_the_length(part: bytes) -> None:
    """Ten times the output takes nothing like a hundred times as long."""

    def fastest_seconds(length: int) -> float:
        output = (part * length)[:length]
        return min(seconds_of(output) for _ in range(3))

    assert fastest_seconds(300_000) < 50 * fastest_seconds(30_000)


def seconds_of(output: bytes) -> float:
    began_at = time.thread_time()  # whatever else the machine does meanwhile
    reason_in(output)
    return time.thread_time() - began_at
