"""The puller as a service and in passes: what is mirrored when, and what ends how."""

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Event

import pytest

from mirrorfeed.puller.branch_list import Branch
from mirrorfeed.puller.commands.client import open_reports
from mirrorfeed.puller.errors import PullerError
from mirrorfeed.puller.folder import Folder
from mirrorfeed.puller.maintenance import Maintenance
from mirrorfeed.puller.service import Puller
from mirrorfeed.puller.settings import Settings
from mirrorfeed.puller.state import BranchState, State
from sandbox import wait_until
from tests.probes import ask, samples, says
from tests.pullers import TestPuller, children_of, kill, marked
from tests.terminal import terminal
from tests.upstreams import Upstream, WebServer, fingerprint, git, refs_of

PATIENCE_SECONDS = 30.0


class SlowGit:
    """The puller's git stops after doing `verb`, for as long as it is not released."""

    def __init__(self, puller: TestPuller, verb: str) -> None:
        self._gate = puller.folder / "gate"
        self._gate.touch()
        self._reached = puller.folder / "reached"
        folder = puller.folder / "bin"
        folder.mkdir(exist_ok=True)
        script = folder / "git"
        script.write_text(
            f'#!/bin/sh\n{shutil.which("git")} "$@"; code=$?\n'
            f'case "$*" in *{verb}*) echo > {self._reached}\n'
            f"while [ -e {self._gate} ]; do sleep 0.05; done;; esac\nexit $code\n"
        )
        script.chmod(0o755)
        puller.also(PATH=f"{folder}:{os.environ['PATH']}")

    def wait(self) -> None:
        """Until it has stopped."""
        wait_until(self._reached.exists, PATIENCE_SECONDS, "git to stop")

    def release(self) -> None:
        self._gate.unlink()


def test_a_service_mirrors_what_is_due_for_ever(puller: TestPuller, upstream: Upstream) -> None:
    """And says that it works when it ends."""
    puller.write_list([upstream.path.as_uri()])
    with puller.service("--interval", "1s"):
        puller.wait_for_outcomes(2)
        tip = upstream.commit()
        wait_until(lambda: tip in puller.outcomes(), PATIENCE_SECONDS, "the commit")
    assert puller.refs() == upstream.refs()
    assert [each.name for each in puller.passes()] == ["branch-puller"]


def test_a_pass_from_cron_mirrors_what_is_due(puller: TestPuller, upstream: Upstream) -> None:
    """Once an interval, and not more often; every pass is reported, also one with failures."""
    puller.write_list([upstream.path.as_uri(), "file:///nowhere"])
    command = puller.command("--once")
    puller.shell.run(*command, expect=1)
    puller.shell.run(*command)
    assert [len(puller.outcomes(each)) for each in (1, 2)] == [1, 1]
    known = puller.states()
    for state in known.values():
        state.due_at -= 2 * 3600 * 1.2
        state.attempted_at -= 2 * 3600 * 1.2
    puller.save_states(known)
    puller.shell.run(*command, expect=1)
    assert [len(puller.outcomes(each)) for each in (1, 2)] == [2, 2]
    assert len(puller.passes()) == 3


def test_a_failing_branch_waits_longer_each_time(puller: TestPuller) -> None:
    """Its due time says so, and it is reported each time."""
    puller.write_list(["file:///nowhere"])
    waits = []
    for _ in range(3):
        puller.once("--interval", "1h", expect=1)
        state = puller.states()[1]
        waits.append((state.due_at - state.attempted_at) / 3600)
    assert waits == pytest.approx([2, 4, 8], rel=0.11)
    assert puller.outcomes() == ["not-found"] * 3


def test_the_list_is_read_again_when_it_changes(
    puller: TestPuller, upstream: Upstream, root: Path
) -> None:
    """New branches are mirrored at once; those that left stay on the disk and are not mirrored."""
    other = Upstream(root / "b.git")
    other.commit()
    puller.write_list({1: upstream.path.as_uri()})
    with puller.service("--interval", "1s"):
        puller.wait_for_outcomes(1)
        puller.write_list({2: other.path.as_uri()})
        puller.wait_for_outcomes(1, branch_id=2)
        count = len(puller.outcomes(1))
        puller.wait_for_outcomes(4, branch_id=2)
        assert len(puller.outcomes(1)) == count
    assert puller.refs(1) == upstream.refs()


def test_a_wrong_list_leaves_the_one_before_in_force(
    puller: TestPuller, upstream: Upstream
) -> None:
    """It is complained of, on SIGHUP too; a puller does not start with one."""
    puller.write_list([upstream.path.as_uri()])
    with puller.service("--interval", "1s") as process:
        puller.wait_for_outcomes(1)
        puller.list.write_text("id,unique_name,url\n1,a,x\nx,y,z\n")
        assert process.stderr is not None
        wait_until(
            lambda: "the list is refused" in process.stderr.readline(),  # type: ignore[union-attr]
            PATIENCE_SECONDS,
            "a complaint",
        )
        process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: "the list is refused" in process.stderr.readline(),  # type: ignore[union-attr]
            PATIENCE_SECONDS,
            "another complaint",
        )
        puller.wait_for_outcomes(len(puller.outcomes()) + 2)
    result = puller.shell.run(*puller.command("--once"), expect=2)
    assert "line 3: id 'x' is not a number" in result.stderr


def test_a_service_that_is_told_to_end_waits_for_what_runs(
    puller: TestPuller, upstream: Upstream
) -> None:
    """And starts nothing more."""
    slow = SlowGit(puller, "clone")
    puller.write_list([upstream.path.as_uri()] * 3)
    process = puller.start("--jobs", "1", "--stop-timeout", "20s")
    slow.wait()
    process.send_signal(signal.SIGTERM)
    slow.release()
    _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, log
    assert puller.outcomes(1) == [upstream.refs()["refs/heads/main"]]
    assert puller.outcomes(2) == []


def test_what_does_not_end_in_time_is_interrupted(puller: TestPuller, upstream: Upstream) -> None:
    """It is reported as such, costs the branch nothing, and leaves nothing behind."""
    puller.write_list([upstream.path.as_uri()])
    slow = SlowGit(puller, "clone")
    process = puller.start("--stop-timeout", "0s")
    slow.wait()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert puller.outcomes() == ["interrupted"]
    assert puller.programs() == []
    assert list(puller.into.glob(".incoming-*")) == []
    assert puller.states()[1].failures == 0
    slow.release()
    puller.shell.run(*puller.command("--once"))
    assert puller.outcome() == upstream.refs()["refs/heads/main"]


def test_machines_can_ask_how_it_is(puller: TestPuller, upstream: Upstream) -> None:
    """Whether it is live and ready, and what it counts."""
    puller.write_list([upstream.path.as_uri(), "file:///nowhere"])
    with puller.service("--http", "127.0.0.1:0", "--interval", "1s") as process:
        assert process.stderr is not None
        matches = (re.search(r":(\d+)/", line) for line in process.stderr)
        port = int(next(match[1] for match in matches if match))
        wait_until(lambda: says(port, "/ready") == 200, PATIENCE_SECONDS, "it to be ready")
        assert says(port, "/live") == 200
        puller.wait_for_outcomes(1, branch_id=2)

        def scraped() -> dict[tuple[str, ...], float]:
            return samples(ask(port, "/metrics").text, "mirrorfeed_puller_")

        failing = ("failing_branches", "not-found")
        wait_until(lambda: scraped()[failing] == 1, PATIENCE_SECONDS, "it to count")
        found = scraped()
        assert sum(found["branches", state] for state in ("running", "due", "waiting")) == 2
        assert found["attempts_total", "completed"] >= 1
        assert found["attempts_total", "failed"] >= 1
        assert found["mirrors_bytes",] > 0
        puller.list.write_text("id\n")
        wait_until(lambda: says(port, "/ready") == 503, PATIENCE_SECONDS, "it to complain")
        assert "the list is refused" in ask(port, "/ready").text
        assert says(port, "/live") == 200


def test_a_second_puller_is_refused(puller: TestPuller, upstream: Upstream) -> None:
    """It names the first, and exits with 1."""
    puller.write_list([upstream.path.as_uri()])
    with puller.service() as process:
        puller.wait_for_outcomes(1)
        result = puller.shell.run(*puller.command("--once"), expect=1)
        assert f"process {process.pid} mirrors into {puller.into} already" in result.stderr
        assert puller.sync("1").startswith("1 ~ada/b1: mirrored ")


def test_a_branch_is_never_mirrored_twice_at_once(puller: TestPuller, upstream: Upstream) -> None:
    """`sync` says who is at it."""
    puller.write_list([upstream.path.as_uri()])
    slow = SlowGit(puller, "clone")
    with puller.service() as process:
        slow.wait()
        said = puller.sync("1", expect=1)
        assert f"branch 1 is being mirrored by process {process.pid}" in said
        assert puller.outcome() == "open"
        assert [each["id"] for each in puller.status()["branches"] if each["running_since"]] == [1]
        slow.release()
        puller.wait_for_outcomes(1)
    assert len(puller.outcomes()) == 1


@pytest.mark.parametrize("verb", ["clone", "fetch"])
def test_what_a_kill_leaves_is_closed_at_the_next_start(
    puller: TestPuller, upstream: Upstream, verb: str
) -> None:
    """The attempt is reported as interrupted, its programs end, its files go, and it succeeds."""
    puller.write_list([upstream.path.as_uri()])
    if verb == "fetch":
        puller.once()
        upstream.commit()
    usual = puller.shell
    slow = SlowGit(puller, verb)
    process = puller.start("--all")
    slow.wait()
    if verb == "clone":
        assert not puller.mirror().exists()
    kill(process)
    left = puller.mirror() if verb == "fetch" else puller.into / ".incoming-1"
    for name in ("objects/pack/tmp_pack_Xy12Zz", "refs/heads/main.lock"):
        (left / name).touch()
        os.utime(left / name, (1, 1))  # in a container only what is old is removed
    assert puller.programs() != []  # and these hold the lock of the mirror
    assert puller.outcome() == "open"
    puller.shell = usual
    log = puller.once()
    assert "closed what was left open" in log
    assert puller.outcomes()[-2:] == ["interrupted", upstream.refs()["refs/heads/main"]]
    assert puller.programs() == []
    assert puller.refs() == upstream.refs()
    left_behind = [*puller.into.glob(".incoming-*"), *puller.mirror().rglob("*.lock")]
    assert [*left_behind, *puller.mirror().rglob("tmp_pack_*")] == []


def test_what_a_killed_sync_leaves_is_closed_by_the_next(
    puller: TestPuller, upstream: Upstream
) -> None:
    """Whichever branch that mirrors."""
    puller.write_list({1: "file:///nowhere", 2: upstream.path.as_uri()})
    puller.once(expect=1)
    puller.write_list({1: upstream.path.as_uri(), 2: upstream.path.as_uri()})
    usual = puller.shell
    slow = SlowGit(puller, "clone")
    process = puller.shell.start("mirror-puller", "sync", "--no-forward", "1")
    slow.wait()
    kill(process)
    assert puller.outcome(1) == "open"
    puller.shell = usual
    puller.sync("2")
    assert puller.outcome(1) == "interrupted"
    assert puller.states()[1].running_since is None
    assert puller.programs() == []
    assert list(puller.into.glob(".incoming-*")) == []


def two_states(folder: Path) -> list[Path]:
    """Of one upstream, before and after a force-push of everything; with tags, a branch that goes,
    and one that becomes a folder."""
    first = Upstream(folder / "first.git")
    first.commit()
    states = [first.path, folder / "second.git"]
    shutil.copytree(states[0], states[1])
    for path, gone in zip(states, ("x", "x/y"), strict=True):
        state = Upstream(path)
        tip = state.rewrite()
        state.git("tag", "--annotate", "-m", "v1", "v1", "main")
        names = [gone, f"only-{path.stem}", *(f"b{number}" for number in range(300))]
        changes = "".join(f"update refs/heads/{name} {tip}\n" for name in names)
        git("-C", path, "update-ref", "--stdin", input_=changes)
    return states


def test_a_kill_at_any_moment_leaves_all_references_old_or_all_new(
    puller: TestPuller, root: Path
) -> None:
    """Of 300 that were force-pushed and one that was deleted; the next attempt succeeds."""
    states = two_states(root)
    expected = [refs_of(path) for path in states]
    seen = []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.restless_puller", puller.into, *states],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for round_ in range(25):
            print("go on", file=process.stdin, flush=True)
            child = int(process.stdout.readline())
            if round_ == 0:
                wait_until(puller.mirror().exists, PATIENCE_SECONDS, "the first mirror")
            time.sleep(0.2 * random.random())  # to hit another moment each time
            for each in (child, *puller.programs()):
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            assert process.stdout.readline() == "killed\n"
            wait_until(lambda: not puller.programs(), PATIENCE_SECONDS, "git to end")
            found = puller.refs()
            assert found in expected
            seen.append(expected.index(found))
            git("-C", puller.mirror(), "fsck", "--no-dangling")
        process.stdin.close()
    assert set(seen) == {0, 1}
    puller.write_list([states[0].as_uri()])
    puller.once()
    assert puller.refs() == expected[0]


def test_a_host_has_two_places(puller: TestPuller, upstream: Upstream, web: WebServer) -> None:
    """Forty branches of it, one of them slow; a restart changes nothing about that."""
    web.slow_seconds = 0.3
    urls = []
    for each in range(40):
        git("clone", "-q", "--bare", upstream.path, upstream.path.with_name(f"n{each}.git"))
        place = "slow" if each == 7 else "git"
        urls.append(f"{web.url}/{place}/n{each}.git")
    puller.write_list(urls)
    process = puller.start("--interval", "1h")
    wait_until(lambda: len(web.requests) >= 10, PATIENCE_SECONDS, "some requests")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert web.most_at_once == 2
    puller.shell.run(*puller.command("--once", "--interval", "1h"))
    assert web.most_at_once == 2
    assert [len(puller.outcomes(each)) for each in range(1, 41)] == [1] * 40


@pytest.mark.parametrize("shift", [-86_400.0, 365 * 86_400.0])
def test_a_clock_that_was_wrong_neither_stalls_nor_floods(
    puller: TestPuller, upstream: Upstream, shift: float
) -> None:
    """Set back by a day, or by a year after it was ahead: what was noted lies in the future, and
    within an interval every branch is mirrored once."""
    puller.write_list([upstream.path.as_uri()] * 20)
    puller.once("--interval", "4s")
    known = puller.states()
    for state in known.values():
        state.due_at += abs(shift)
        state.attempted_at += abs(shift)
    puller.save_states(known)
    puller.shell.run(*puller.command("--once", "--interval", "1h"))
    at_once = sum(len(puller.outcomes(each)) - 1 for each in range(1, 21))
    assert at_once <= 2
    with puller.service("--interval", "4s"):
        for each in range(1, 21):
            puller.wait_for_outcomes(2, branch_id=each)


def test_a_small_disk_is_not_filled(small_disk: Path, upstream: Upstream, tmp_path: Path) -> None:
    """What does not fit is `disk-full`, leaves nothing behind, and what is kept free is kept."""
    puller = TestPuller(tmp_path, "file")
    puller.into = small_disk / "mirrors"
    puller.also(MIRRORFEED_PULLER_INTO=str(puller.into))
    upstream.commit(size=30_000_000)
    puller.write_list([upstream.path.as_uri()])
    puller.once(expect=1)
    assert puller.outcome() == "disk-full", puller.reason()
    assert list(puller.into.glob(".incoming-*")) == []
    log = puller.once("--keep-free-bytes", "50000000", expect=1)
    assert puller.outcome() == "disk-full", log
    assert "are kept free" in puller.reason()


def test_a_branch_that_cannot_even_be_locked_for_lack_of_room_is_reported(
    small_disk: Path, upstream: Upstream, tmp_path: Path
) -> None:
    """As `disk-full`; the service goes on."""
    puller = TestPuller(tmp_path, "file")
    puller.into = small_disk / "mirrors"
    puller.also(MIRRORFEED_PULLER_INTO=str(puller.into))
    puller.write_list([upstream.path.as_uri()])
    with puller.service():
        puller.wait_for_outcomes(1)
        with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))
        puller.write_list([upstream.path.as_uri()] * 3)
        for each in (2, 3):
            puller.wait_for_outcomes(1, branch_id=each)
            assert puller.outcome(each) == "disk-full"
            assert f"locks/{each} cannot be used: No space left on device" in puller.reason(each)


def test_a_lock_that_cannot_be_used_hinders_its_branch_only(
    puller: TestPuller, upstream: Upstream
) -> None:
    """It is reported, by a service, by `sync`, and after a kill."""
    puller.write_list([upstream.path.as_uri()] * 2)
    puller.once()
    lock = puller.into / ".puller/locks/1"
    lock.unlink()
    lock.mkdir()
    puller.note(running_since=1.0)
    log = puller.once(expect=1)
    assert "cannot close what was left open branch=1" in log
    assert puller.outcome(1) == "other"
    assert f"the lock {lock} cannot be used: Is a directory" in puller.reason(1)
    assert puller.outcome(2) == upstream.refs()["refs/heads/main"]
    assert puller.sync("1", "2", expect=1).startswith("1 ~ada/b1: other: the lock ")


def test_maintenance_that_cannot_have_a_lock_goes_on(
    puller: TestPuller, upstream: Upstream
) -> None:
    """With the next mirror."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    lock = puller.into / ".puller/locks/1"
    lock.unlink()
    lock.mkdir()
    settings = Settings(maintenance_seconds=1.0)
    known = {1: BranchState(changed_at=5.0, maintained_at=1.0)}
    ended = Event()
    with closing(Maintenance(Folder(puller.into), settings, ended.set)) as maintenance:
        maintenance.start_next([Branch(1, "a", "file:///a")], known, [])
        assert ended.wait(PATIENCE_SECONDS)
        maintained = maintenance.finished()
    assert maintained is not None
    assert (maintained.branch_id, maintained.is_corrupt) == (1, False)
    assert maintained.size_bytes > 0


def test_a_mirror_has_its_quota(puller: TestPuller, upstream: Upstream) -> None:
    """A larger one fails as too large, and takes no room."""
    upstream.commit(size=3_000_000)
    puller.write_list([upstream.path.as_uri()])
    puller.once("--max-mirror-bytes", "1000000", expect=1)
    assert puller.outcome() == "too-large"
    assert "at most 1,000,000 are allowed" in puller.reason()
    assert [each.name for each in puller.into.iterdir()] == [".puller"]
    puller.once("--max-mirror-bytes", "10000000")
    for _ in range(2):  # as long as it is larger, and not only when it grows
        puller.once("--max-mirror-bytes", "1000000", expect=1)
        assert puller.outcome() == "too-large"


def test_a_full_disk_hinders_only_what_must_be_fetched(
    puller: TestPuller, upstream: Upstream
) -> None:
    """A mirror that is as upstream is takes no room."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    puller.once("--keep-free-bytes", str(10**15))
    upstream.commit()
    puller.once("--keep-free-bytes", str(10**15), expect=1)
    assert puller.outcome() == "disk-full"


def test_a_hook_runs_after_a_change(puller: TestPuller, upstream: Upstream) -> None:
    """In the mirror, and only then; that it fails is logged and undoes nothing."""
    script = puller.folder / "hook"
    script.write_text(
        "#!/bin/sh\necho $MIRRORFEED_BRANCH $MIRRORFEED_NAME ${MIRRORFEED_OLD_REVISION:-none}"
        f" $MIRRORFEED_NEW_REVISION $PWD $* >> {puller.folder}/ran\n"
        "echo 'fatal: no luck' >&2; exit 3\n"
    )
    script.chmod(0o755)
    puller.write_list([upstream.path.as_uri()])
    first = upstream.refs()["refs/heads/main"]
    log = puller.once("--hook", f"{script} 'an argument'")
    puller.once("--hook", f"{script} 'an argument'")
    assert "the hook failed" in log
    assert "no luck" in log
    assert puller.outcomes() == [first, first]
    second = upstream.commit()
    puller.once("--hook", f"{script} again")
    assert (puller.folder / "ran").read_text().splitlines() == [
        f"1 ~ada/b1 none {first} {puller.mirror()} an argument",
        f"1 ~ada/b1 {first} {second} {puller.mirror()} again",
    ]


def test_mirrors_that_change_are_maintained(puller: TestPuller, upstream: Upstream) -> None:
    """Their references and objects are packed, under the lock of the mirror."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    for _ in range(3):
        upstream.commit()
        puller.once()
    puller.note(maintained_at=1.0)
    upstream.commit()
    log = puller.shell.run(
        *puller.command("--once", "--all"), "--maintenance-interval", "1m"
    ).stderr
    assert "maintained branch=1" in log
    assert puller.refs() == upstream.refs()
    assert not (puller.mirror() / "refs/heads/main").exists()
    assert len(list((puller.mirror() / "objects/pack").glob("*.pack"))) == 1


def test_a_spool_that_cannot_be_used_keeps_nothing_from_being_mirrored(
    puller: TestPuller, upstream: Upstream
) -> None:
    """What cannot be reported is said."""
    puller.spool.mkdir()
    puller.write_list([upstream.path.as_uri()])
    log = puller.once()
    assert "could not report that branch 1 began to be mirrored" in log
    assert puller.refs() == upstream.refs()


@contextmanager
def within(puller: TestPuller) -> Iterator[tuple[Puller, State]]:
    """A puller in this process, which has read its notes."""
    folder = Folder(puller.into)
    settings = Settings(protocols=("file",), keep_free_bytes=0)
    reports = open_reports(puller.spool, 2**30, "", forwards=False, say=print)
    with ExitStack() as opened:
        state = opened.enter_context(State(folder.state))
        opened.callback(reports.close, flush_seconds=0.0)
        service = Puller(puller.list, folder, settings, state, reports)
        yield opened.enter_context(closing(service)), state


def test_notes_that_cannot_be_written_keep_nothing_from_being_mirrored(
    puller: TestPuller, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and every branch will be due."""
    puller.write_list([upstream.path.as_uri()])
    with within(puller) as (service, state):
        state.save = broken  # type: ignore[method-assign]
        assert service.run(once=True, all_due=True).is_all_well
        assert service.why_not_ready() == "the disk is full"
    assert "cannot note what happens" in caplog.text
    assert puller.outcome() == upstream.refs()["refs/heads/main"]


def test_what_cannot_be_written_down_is_trouble_like_a_full_disk(tmp_path: Path) -> None:
    """So it ends no puller; what was noted before stays."""
    with State(tmp_path / "state.db") as state:
        state.save([(1, BranchState(name="a"))])
        with pytest.raises(PullerError, match="cannot be used: 'utf-8' codec can't encode"):
            state.save([(1, BranchState(name="b")), (2, BranchState(reason="\udcff"))])
        assert state.branches() == {1: BranchState(name="a")}


def test_sync_needs_no_notes(puller: TestPuller, upstream: Upstream) -> None:
    """It mirrors and reports, and says what it could not note."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    tip = upstream.commit()
    with sqlite3.connect(puller.into / ".puller/state.db") as notes:
        notes.execute(
            "CREATE TRIGGER t BEFORE INSERT ON branch BEGIN SELECT RAISE(FAIL, 'no'); END"
        )
    result = puller.shell.run("mirror-puller", "sync", "--no-forward", "1")
    assert result.stdout == f"1 ~ada/b1: mirrored {tip}\n"
    assert result.stderr.count("cannot note what happens") == 2
    assert puller.outcome() == tip


def test_what_sync_has_done_meanwhile_counts(puller: TestPuller, upstream: Upstream) -> None:
    """A branch that it has mirrored has no failures any more."""
    puller.write_list(["file:///nowhere"])
    for _ in range(3):
        puller.once(expect=1)
    with within(puller) as (service, _):
        upstream.path.rename(upstream.path.with_name("b.git"))
        puller.write_list([upstream.path.with_name("b.git").as_uri()])
        puller.sync("1")
        upstream.path.with_name("b.git").rename(upstream.path)
        service.run(once=True, all_due=True)
    assert puller.states()[1].failures == 1


def broken(states: object) -> None:
    raise PullerError("the disk is full")


def test_lost_notes_cost_nothing_but_a_look(puller: TestPuller, upstream: Upstream) -> None:
    """Every branch is due."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    for each in (puller.into / ".puller").glob("state.db*"):
        each.unlink()
    before = fingerprint(puller.mirror())
    puller.shell.run(*puller.command("--once"))
    assert fingerprint(puller.mirror()) == before
    assert len(puller.outcomes()) == 2


def test_a_person_sees_what_goes_on(puller: TestPuller, upstream: Upstream) -> None:
    """A line for each running mirror, a bar for the pass, and failures above them."""
    slow = SlowGit(puller, "clone")
    puller.write_list([upstream.path.as_uri(), "file:///nowhere"])
    command = puller.command("--once", "--all")
    with terminal(puller.shell, *command, columns=120) as screen:
        screen.wait_for_text("1 ~ada/b1")
        slow.release()
        assert screen.end() == 1
    assert "all that is due" in screen.written
    assert "not-found" in screen.written


def test_as_process_1_it_reaps_what_others_leave(puller: TestPuller, upstream: Upstream) -> None:
    """In a container it gets the orphans of what it starts."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-pf", "true"], check=False).returncode:
        pytest.skip("only root can be process 1 of a namespace, and not in every container")
    folder = puller.folder / "bin"
    folder.mkdir()
    script = folder / "git"
    script.write_text(
        f"#!/bin/sh\nsetsid sh -c 'sleep 0.3 & exec sleep 0.2' > /dev/null 2>&1 &\n"
        f'exec {shutil.which("git")} "$@"\n'
    )
    script.chmod(0o755)
    puller.also(PATH=f"{folder}:{os.environ['PATH']}")
    puller.write_list([upstream.path.as_uri()])
    command = puller.shell.arguments(puller.command("--interval", "1s"))
    process = subprocess.Popen(
        ["unshare", "-pf", "--kill-child", "--mount-proc", *command],
        env=puller.shell.environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        puller.wait_for_outcomes(4)
        (inner,) = [each for each, _ in children_of(process.pid)]
        wait_until(
            lambda: not any(state == "Z" for _, state in children_of(inner)),
            PATIENCE_SECONDS,
            "no zombie to be there",
        )
        os.kill(inner, signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    assert marked(str(puller.into)) == []
