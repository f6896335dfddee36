"""`mirror-publisher run` never stands in the way of the command that it runs."""

import os
import signal
import subprocess
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import pytest

from mirrorfeed.contract.events import MirrorCompleted, MirrorFailed, MirrorStarted
from mirrorfeed.publisher import SpoolFull
from mirrorfeed.publisher.spool import Spool
from tests.builders import at
from tests.commands import Shell
from tests.spools import mirror, reason, spooled
from tests.terminal import terminal

PATIENCE_SECONDS = 10
SMALLEST_LIMIT = ("--spool-limit-bytes", str(1024 * 1024))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def shell(path: Path) -> Shell:
    return Shell({"MIRRORFEED_SPOOL": str(path)})


def fill(path: Path) -> None:
    """So that not even a small event fits."""
    with closing(Spool(path, limit_bytes=1024 * 1024)) as spool:
        for length in (8192, 1):
            with suppress(SpoolFull):
                for second in count():
                    event = MirrorFailed(1, at(second), "x" * length)
                    with spool.writing() as writer:
                        writer.append(event, occurred_at=event.started_at)


def started(shell: Shell, *command: str) -> "subprocess.Popen[str]":
    """The command, once it has written a line to standard error."""
    process = shell.start(*command)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    return process


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{process_id}/status").read_text()


@pytest.mark.parametrize("exit_code", [0, 3])
def test_with_a_full_spool_the_command_runs(shell: Shell, path: Path, exit_code: int) -> None:
    """What cannot be reported is said, and the exit code is the command's."""
    fill(path)
    before = len(spooled(path))
    command = mirror(f"echo done; exit {exit_code}", *SMALLEST_LIMIT)
    result = shell.run(*command, expect=exit_code)
    assert result.stdout == "done\n"
    assert "could not report that branch 1 began to be mirrored: the spool" in result.stderr
    assert "is full, its limit is 1048576 bytes" in result.stderr
    assert len(spooled(path)) == before


@pytest.mark.parametrize("kind", ["folder", "junk", "nowhere"])
@pytest.mark.parametrize("subcommand", [("run", "--branch", "1", "--lock"), ("run-script", "gc")])
def test_with_an_unusable_spool_the_command_runs(
    tmp_path: Path, kind: str, subcommand: tuple[str, ...]
) -> None:
    """It does not matter what is in the spool's place."""
    path = Path("/proc/no/spool.db") if kind == "nowhere" else tmp_path / "spool.db"
    if kind == "folder":
        path.mkdir()
    elif kind == "junk":
        path.write_bytes(b"junk" * 1000)
    shell = Shell({"MIRRORFEED_SPOOL": str(path)})
    result = shell.run("mirror-publisher", *subcommand, "--", "sh", "-c", "echo done")
    assert result.stdout == "done\n"
    assert "could not report that" in result.stderr
    assert str(path.parent) in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("options", [("--lock",), ("--revision-command", "echo rev-1")])
def test_with_a_full_disk_the_command_runs(
    shell: Shell, path: Path, options: tuple[str, ...]
) -> None:
    """What is needed beside the spool cannot be written either, wherever it would be."""
    shell.run("mirror-publisher", "started", "1")  # as on a host that has worked for a while
    command = shell.arguments(mirror("echo done", *options))
    result = shell.run("/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *command)
    assert result.stdout == "done\n"
    assert "Traceback" not in result.stderr


def test_the_end_is_reported_if_the_spool_is_usable_by_then(shell: Shell, path: Path) -> None:
    """It knows when the attempt began."""
    path.mkdir()
    result = shell.run(*mirror(f"rmdir {path}"))
    assert "branch 1 began to be mirrored" in result.stderr
    assert "was mirrored" not in result.stderr
    (end,) = spooled(path)
    assert isinstance(end.event, MirrorCompleted)
    assert end.event.started_at < end.time


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--branch", "0", "--", "true"),
        ("run", "--branch", "one", "--", "true"),
        ("run", "--branch", "1"),
        ("run", "--", "true"),
        ("run", "--branch", "1", "--no-such-option", "--", "true"),
        ("run", "--branch", "1", "--timeout", "soon", "--", "true"),
        ("run-script", "n" * 256, "--", "true"),
        ("run-script", "gc"),
    ],
)
def test_bad_usage_exits_125(shell: Shell, path: Path, arguments: tuple[str, ...]) -> None:
    """No code of the command's can be mistaken for it, and nothing is reported."""
    result = shell.run("mirror-publisher", *arguments, expect=125)
    assert "Traceback" not in result.stderr
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (("run", "--branch", "1", "git", "-C", "/srv/a b", "fetch"),
         "mirror-publisher run --branch 1 -- git -C '/srv/a b' fetch"),
        (("run", "--branch", "1", "rsync", "--timeout", "10"),
         "mirror-publisher run --branch 1 -- rsync --timeout 10"),
        (("run-script", "gc", "gc", "--all"), "mirror-publisher run-script gc -- gc --all"),
    ],
)  # fmt: skip
def test_forgotten_dashes_get_a_hint(shell: Shell, arguments: tuple[str, ...], right: str) -> None:
    """Options of the command are never taken for ours."""
    assert right in shell.run("mirror-publisher", *arguments, expect=125).stderr


@pytest.mark.parametrize(
    "number",
    [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH, signal.SIGRTMIN + 3],
)
def test_other_signals_are_the_commands(shell: Shell, path: Path, number: int) -> None:
    """They tell it nothing about its end, so what it does about them decides."""
    script = f"trap 'exit 0' {int(number)}; echo ready >&2; while :; do sleep 0.05; done"
    process = started(shell, *mirror(script))
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert isinstance(spooled(path)[-1].event, MirrorCompleted)


def test_a_command_that_dies_of_another_signal_is_reported(shell: Shell, path: Path) -> None:
    """An attempt is open only as long as its command runs."""
    process = started(shell, *mirror("echo ready >&2; exec sleep 60"))
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + signal.SIGUSR1
    assert reason(path) == "sh was ended by SIGUSR1: ready"


def test_a_run_under_nohup_outlives_its_terminal(shell: Shell, path: Path, tmp_path: Path) -> None:
    """What is ignored is not passed on either."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = shell.arguments(mirror(f"echo ready >&2; read line < {fifo}"))
    process = subprocess.Popen(
        command,
        env=shell.environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    fifo.write_text("go on\n")
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert isinstance(spooled(path)[-1].event, MirrorCompleted)


def test_an_interrupted_run_ends_what_runs_one_after_the_other(shell: Shell, path: Path) -> None:
    """xargs goes on after a command that failed, and ends after one that a signal has ended."""
    program = shell.arguments(("mirror-publisher",))[0]
    process = subprocess.Popen(
        ["xargs", "-I{}", program, "run", "--branch", "{}", "--",
         "sh", "-c", "echo $PPID >&2; exec sleep 60"],
        env=shell.environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write("1\n2\n")
    process.stdin.close()
    process.stdin = None
    os.kill(int(process.stderr.readline()), signal.SIGINT)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 125
    start, end = (envelope.event for envelope in spooled(path))
    assert isinstance(start, MirrorStarted)
    assert isinstance(end, MirrorFailed)
    assert start.branch_id == end.branch_id == 1


def test_a_command_that_takes_too_long_is_ended(shell: Shell, path: Path, tmp_path: Path) -> None:
    """With all that it started, and the reason says what it did until then."""
    pid_file = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid_file}; echo fetching >&2; wait"
    result = shell.run(*mirror(script, "--timeout", "1"), expect=124)
    expected = "sh took longer than 1 s and was ended"
    assert f"mirror-publisher: {expected}" in result.stderr
    assert reason(path) == f"{expected}: fetching"
    assert not is_alive(int(pid_file.read_text()))


def test_a_revision_command_has_no_more_time(shell: Shell, path: Path) -> None:
    """The branch is mirrored, but nobody waits to hear up to where."""
    shell.run(*mirror("true", "--timeout", "1", "--revision-command", "sleep 60"))
    end = spooled(path)[-1].event
    assert isinstance(end, MirrorCompleted)
    assert end.revision_id is None


def test_one_run_at_a_time_mirrors_a_branch(shell: Shell, path: Path) -> None:
    """Another one says who is there, runs nothing and reports nothing; other branches are free."""
    process = started(shell, *mirror("echo ready >&2; exec sleep 60", "--lock"))
    result = shell.run(*mirror("echo twice", "--lock"), expect=125)
    assert result.stdout == ""
    assert "branch 1 is already being mirrored" in result.stderr
    assert f"process {process.pid}" in result.stderr
    shell.run("mirror-publisher", "run", "--branch", "2", "--lock", "--", "true")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    shell.run(*mirror("true", "--lock"))
    branches = [getattr(envelope.event, "branch_id", None) for envelope in spooled(path)]
    assert branches == [1, 2, 2, 1, 1, 1]


def test_the_lock_lasts_as_long_as_the_command(shell: Shell, path: Path, tmp_path: Path) -> None:
    """Even if the run that began it is killed; but not as long as what it leaves behind."""
    pid_file = tmp_path / "pid"
    orphan = started(
        shell, *mirror(f"echo $$ >{pid_file}; echo ready >&2; exec sleep 60", "--lock")
    )
    orphan.kill()
    orphan.wait()
    shell.run(*mirror("true", "--lock"), expect=125)
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    orphan.communicate(timeout=PATIENCE_SECONDS)
    shell.run(*mirror(f"sleep 60 >{pid_file}.out 2>&1 & echo $! >{pid_file}", "--lock"))
    shell.run(*mirror("true", "--lock"))
    os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_a_command_shows_its_progress_on_a_terminal(shell: Shell, tmp_path: Path) -> None:
    """git does that if its standard error is one, and asks how wide it is."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    for arguments in (
        ("init", "-q", str(origin)),
        ("-C", str(origin), "-c", "user.name=n", "-c", "user.email=e",
         "commit", "-q", "--allow-empty", "-m", "one"),
    ):  # fmt: skip
        subprocess.run(["git", *arguments], check=True)
    script = f"stty size <&2; git clone --no-local {origin} {clone}"
    with terminal(shell, *mirror(script), lines=33, columns=77) as shown:
        assert shown.end() == 0
        assert "33 77" in shown.written
        assert "Receiving objects: 100%" in shown.written
