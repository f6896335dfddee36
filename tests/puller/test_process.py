"""Programs run within limits, and leave nothing behind."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mirrorfeed.puller.process import Ended, Limits, Processes, end_marked, group_members, users_of
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure
from sandbox import wait_until
from tests.pullers import children_of

PATIENCE_SECONDS = 20.0
MARK = "MIRRORFEED_TEST_MARK"
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""
"""Ignores what it is told, and so does its child."""


@pytest.fixture
def processes() -> Iterator[Processes]:
    with closing(Processes()) as opened:
        yield opened


Children = Callable[[], list[tuple[int, str]]]


@pytest.fixture
def children() -> Children:
    """Those of this process that this test has started: servers of other tests may run."""
    before = {number for number, _ in children_of(os.getpid())}
    return lambda: [each for each in children_of(os.getpid()) if each[0] not in before]


def run(
    processes: Processes,
    *arguments: str,
    stall: float = PATIENCE_SECONDS,
    seconds: float = PATIENCE_SECONDS,
    mark: str = "",
) -> Ended:
    return processes.run(
        arguments,
        environment={**os.environ, MARK: mark},
        limits=Limits(stall, time.monotonic() + seconds, seconds),
    )


def shell(
    processes: Processes,
    script: str,
    *,
    stall: float = PATIENCE_SECONDS,
    seconds: float = PATIENCE_SECONDS,
) -> Ended:
    return run(processes, "sh", "-c", script, stall=stall, seconds=seconds)


def test_a_program_that_ends_is_told_about(processes: Processes) -> None:
    """Its code, its output, and the end of what it says."""
    ended = shell(processes, "echo out; echo err >&2; exit 3")
    assert (ended.exit_code, ended.output, ended.errors) == (3, b"out\n", b"err\n")
    assert shell(processes, "kill -9 $$").exit_code == -9


def test_a_program_that_is_not_there_fails_the_attempt(processes: Processes) -> None:
    """And nothing else."""
    with pytest.raises(MirrorFailure, match="no-such-program cannot be run: No such file"):
        run(processes, "no-such-program")


def test_a_program_reads_what_is_typed(processes: Processes) -> None:
    """All of it, though it has not fitted into a pipe, and nothing else."""
    limits = Limits(PATIENCE_SECONDS, time.monotonic() + PATIENCE_SECONDS, PATIENCE_SECONDS)
    for typed in (b"", b"x" * 1_000_000):
        ended = processes.run(["wc", "-c"], environment=os.environ, limits=limits, typed=typed)
        assert int(ended.output) == len(typed)


def test_a_silent_program_is_ended(processes: Processes, children: Children) -> None:
    """With all that it has started."""
    with pytest.raises(MirrorFailure, match=r"sh made no progress for 0\.3 s") as failure:
        shell(processes, "echo working >&2; sleep 600 & sleep 600", stall=0.3)
    assert failure.value.failure_class is FailureClass.TIMEOUT
    assert "it last said: working" in failure.value.line
    assert children() == []


def test_a_program_that_says_something_is_not_silent(processes: Processes) -> None:
    """Its progress counts, but not for ever."""
    chatter = "while :; do echo . >&2; sleep 0.05; done"
    with pytest.raises(MirrorFailure, match=r"took longer than 1 s"):
        shell(processes, chatter, stall=0.5, seconds=1)


def test_growth_is_progress(processes: Processes) -> None:
    """A program that says nothing may do much."""
    sizes = iter(range(1, 1000))
    ended = processes.run(
        ["sleep", "3"],
        environment=os.environ,
        limits=Limits(1.5, time.monotonic() + 60, 60),
        watch=lambda: next(sizes),
    )
    assert ended.exit_code == 0


def test_what_ignores_sigterm_is_killed(
    processes: Processes, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty times, and no zombie is left."""
    monkeypatch.setattr("mirrorfeed.puller.process.KILL_AFTER_SECONDS", 0.1)
    for _ in range(50):
        with pytest.raises(MirrorFailure, match="made no progress"):
            shell(processes, "trap '' TERM; sleep 600 & sleep 600", stall=0.02)
    assert children() == []


def test_a_stubborn_grandchild_does_not_outlive_its_group(
    processes: Processes, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although its parent has ended."""
    monkeypatch.setattr("mirrorfeed.puller.process.KILL_AFTER_SECONDS", 0.3)
    ended = shell(processes, "echo $$; (trap '' TERM HUP; sleep 600) & exit 0")
    group = int(ended.output)
    wait_until(lambda: group_members(group) == [], PATIENCE_SECONDS, "the group to be empty")
    with pytest.raises(MirrorFailure):
        run(processes, sys.executable, "-c", STUBBORN, stall=1)
    assert children() == []


def test_a_pipe_that_a_daemon_keeps_holds_nobody_up(processes: Processes, tmp_path: Path) -> None:
    """What left the session has the pipe, and the program has ended."""
    note = tmp_path / "pid"
    began = time.monotonic()
    ended = shell(processes, f"setsid sh -c 'echo $$ > {note}; exec sleep 600' & sleep 0.2; exit 0")
    assert ended.exit_code == 0
    assert time.monotonic() - began < 10
    os.kill(int(note.read_text()), 9)


def test_endless_output_is_bounded(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the list is limited, of errors the end is kept."""
    monkeypatch.setattr("mirrorfeed.puller.process.MAX_OUTPUT_BYTES", 1_000_000)
    with pytest.raises(MirrorFailure) as failure:
        shell(processes, "cat /dev/zero")
    assert failure.value.failure_class is FailureClass.TOO_LARGE
    ended = shell(processes, "head -c 5000000 /dev/zero >&2; echo end >&2")
    assert ended.errors.endswith(b"end\n")
    assert len(ended.errors) <= 64 * 1024


def test_all_are_interrupted_together(processes: Processes, children: Children) -> None:
    """And none is started afterwards."""
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(shell, processes, "sleep 600") for _ in range(4)]
        wait_until(lambda: len(children()) == 4, PATIENCE_SECONDS, "four programs")
        processes.interrupt()
        for each in running:
            error = each.exception()
            assert isinstance(error, MirrorFailure)
            assert error.failure_class is FailureClass.INTERRUPTED
    with pytest.raises(MirrorFailure, match="told to end"):
        shell(processes, "true")
    assert children() == []


def test_nothing_of_a_run_stays_open(processes: Processes) -> None:
    """Neither after an end nor after a limit."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        shell(processes, "true")
        with pytest.raises(MirrorFailure):
            shell(processes, "sleep 600", stall=0.02)
        with pytest.raises(MirrorFailure):
            run(processes, "no-such-program")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_a_killed_puller_has_started_is_found_by_its_mark(
    processes: Processes, children: Children
) -> None:
    """And ended, whatever it has become."""
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run, processes, "sleep", "600", mark="17:/srv")
        wait_until(lambda: len(children()) == 1, PATIENCE_SECONDS, "a program")
        assert end_marked(MARK, "18:/srv") == 0
        wait_until(lambda: end_marked(MARK, "17:/srv") == 1, PATIENCE_SECONDS, "it to be found")
        assert running.result().exit_code == -15


def test_a_process_that_works_in_a_folder_is_seen(processes: Processes, tmp_path: Path) -> None:
    """By its folder, its arguments or its open files."""
    inside = tmp_path / "1.git"
    inside.mkdir()
    (inside / "x.lock").touch()
    scripts = (f"cd {inside}; echo; exec sleep 600", f": {inside}; echo; sleep 600; :",
               f"exec 3< {inside}/x.lock; echo; exec sleep 600")  # fmt: skip
    assert users_of(inside) == []
    for script in scripts:
        seen = threading.Event()
        with closing(Processes()) as own, ThreadPoolExecutor(1) as threads:
            running = threads.submit(shell, own, script)
            wait_until(lambda: bool(users_of(inside)), PATIENCE_SECONDS, script)
            seen.set()
            own.interrupt()
            assert isinstance(running.exception(), MirrorFailure)
    assert users_of(inside) == []
