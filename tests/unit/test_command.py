"""Running a mirror command: its output, its end, and what becomes the reason of a failure."""

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from mirrorfeed.contract.events import MirrorCompleted, MirrorFailed, ScriptRun
from mirrorfeed.publisher import SpoolFull
from mirrorfeed.publisher.spool import Spool
from mirrorfeed.publisher.spool_access import beside
from mirrorfeed.publisher.wrapper import command
from mirrorfeed.publisher.wrapper.command import Deadline, Ended, run_command
from mirrorfeed.publisher.wrapper.signals import PassedOnSignals
from sandbox import wait_until
from tests.builders import at
from tests.commands import Shell
from tests.spools import mirror, reason, spooled

PATIENCE_SECONDS = 10


@pytest.fixture
def shell(path: Path) -> Shell:
    return Shell({"MIRRORFEED_SPOOL": str(path)})


def test_a_command_that_succeeds_completes_the_attempt(shell: Shell, path: Path) -> None:
    """The revision is what the revision command prints."""
    result = shell.run(*mirror("echo out; echo err >&2", "--revision-command", "echo rev-1"))
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    start, end = spooled(path)
    assert isinstance(end.event, MirrorCompleted)
    assert end.event.revision_id == "rev-1"
    assert end.event.started_at == start.time


@pytest.mark.parametrize(
    "revision_command", ["exit 1", "true", "head -c 2000 /dev/zero | tr '\\0' x"]
)
def test_a_mirror_without_a_known_revision_is_a_mirror(
    shell: Shell, path: Path, revision_command: str
) -> None:
    """A revision command that fails does not make the mirror a failure."""
    result = shell.run(*mirror("true", "--revision-command", revision_command))
    assert "printed no revision; the branch is reported" in result.stderr
    end = spooled(path)[-1].event
    assert isinstance(end, MirrorCompleted)
    assert end.revision_id is None


def test_a_command_that_fails_tells_why(shell: Shell, path: Path) -> None:
    """What it calls an error is the reason, and its exit code is passed on."""
    result = shell.run(*mirror("echo first >&2; echo 'fatal: größe' >&2; exit 7"), expect=7)
    assert result.stderr == "first\nfatal: größe\n"
    assert reason(path) == "fatal: größe"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 3", "sh exited with code 3"),
        ("printf 'one\\n\\n  \\n' >&2; exit 1", "one"),
        ("printf '10%%\\r20%%\\rfatal: x' >&2; exit 1", "fatal: x"),
        ("printf 'a\\nb\\nfatal: x\\nhint: y\\n' >&2; exit 1", "fatal: x"),
        ("printf 'a\\0b\\377c' >&2; exit 1", "ab\ufffdc"),
        ("printf '\\0\\0\\n\\0' >&2; exit 1", "sh exited with code 1"),
        ("echo 'cannot read https://jane:s3cret@host/' >&2; exit 1",
         "cannot read https://***@host/"),
        ("head -c 300000 /dev/zero | tr '\\0' x >&2; exit 1", "x" * 8192),
    ],
)  # fmt: skip
def test_any_standard_error_makes_a_reason(
    shell: Shell, path: Path, script: str, expected: str
) -> None:
    """That includes blank lines, progress bars, binary, secrets, and more than an event holds."""
    shell.run(*mirror(script), expect=3 if script == "exit 3" else 1)
    assert reason(path) == expected


def test_a_command_that_does_not_exist_is_a_failure(shell: Shell, path: Path) -> None:
    """The exit code is the one a shell would give."""
    shell.run("mirror-publisher", "run", "--branch", "1", "--", "no-such-command", expect=127)
    assert reason(path) == "no-such-command: command not found"


def test_a_command_that_cannot_be_run_is_a_failure(
    shell: Shell, path: Path, tmp_path: Path
) -> None:
    """The exit codes are those of a shell, and the reason says what is wrong with the file."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    run = ("mirror-publisher", "run", "--branch", "1", "--", str(script))
    assert "cannot be run: Permission denied" in shell.run(*run, expect=126).stderr
    script.chmod(0o755)
    shell.run(*run, expect=127)
    assert reason(path) == (f"{script}: the interpreter that its first line names was not found")


def test_a_script_without_an_interpreter_is_the_shells(
    shell: Shell, path: Path, tmp_path: Path
) -> None:
    """As sh, env, nice, timeout and nohup run it, by its path and from PATH."""
    script = tmp_path / "mirror-it"
    script.write_text('echo "$0 $1"; exit 4\n')
    script.chmod(0o755)
    near = Shell({**shell.variables, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    for name in (str(script), script.name):
        result = near.run("mirror-publisher", "run", "--branch", "1", "--", name, "a b", expect=4)
        assert result.stdout == f"{script} a b\n"
    assert reason(path) == "mirror-it exited with code 4"


def test_a_command_that_was_killed_is_a_failure(shell: Shell, path: Path) -> None:
    """It does not matter who killed it."""
    shell.run(*mirror("kill -KILL $$"), expect=128 + signal.SIGKILL)
    assert reason(path) == "sh was ended by SIGKILL"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    "script",
    [
        "echo ready >&2; exec sleep 60",
        "trap 'exit 0' TERM INT HUP; echo ready >&2; while :; do sleep 0.05; done",
    ],
)
def test_a_run_that_is_told_to_end_reports_a_failure(
    shell: Shell, path: Path, number: signal.Signals, script: str
) -> None:
    """The signal is passed on, and nobody can know whether the command had done its work.

    After SIGINT this process ends by it, so that a loop around it ends, too."""
    process = shell.start(*mirror(script))
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(number)
    process.wait(PATIENCE_SECONDS)
    process.communicate()
    assert process.returncode == (-number if number == signal.SIGINT else 128 + number)
    assert reason(path) == f"sh was ended by {number.name}: ready"


def test_something_left_running_is_not_waited_for(shell: Shell, path: Path, tmp_path: Path) -> None:
    """A daemon that keeps standard error open does not keep the attempt open."""
    pid_file = tmp_path / "pid"
    process = shell.start(*mirror(f"sleep 60 & echo $! > {pid_file}; echo done >&2; exit 1"))
    assert process.wait(PATIENCE_SECONDS) == 1
    assert reason(path) == "done"
    os.kill(int(pid_file.read_text()), signal.SIGTERM)
    process.communicate()


def test_a_command_whose_output_nobody_reads_goes_on(path: Path) -> None:
    """A closed standard error ends neither the command nor the report."""
    program = Path(sys.executable).parent / "mirror-publisher"
    command = [str(program), *mirror("echo lost >&2; echo more >&2; exit 4")[1:]]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        result = subprocess.run(
            command,
            env={**os.environ, "MIRRORFEED_SPOOL": str(path)},
            stderr=closed,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert result.returncode == 4
    assert reason(path) == "lost\nmore"


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_a_run_without_standard_streams_goes_on(path: Path, closed: str) -> None:
    """Some schedulers start jobs that way. The command's pipe is still read, and nothing that was
    meant for standard error gets into another file."""
    program = Path(sys.executable).parent / "mirror-publisher"
    script = "head -c 300000 /dev/zero | tr '\\0' x >&2; exit 4"
    result = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", str(program), *mirror(script, "--lock")[1:]],
        env={**os.environ, "MIRRORFEED_SPOOL": str(path)},
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 4
    assert reason(path) == "x" * 8192
    assert beside(path, ".branch-1.lock").read_text().strip().isdecimal()


def test_the_exit_code_is_known_where_ended_children_are_ignored(path: Path) -> None:
    """If the parent ignores SIGCHLD, a failure must still not look like a success."""
    program = Path(sys.executable).parent / "mirror-publisher"
    result = subprocess.run(
        [str(program), *mirror("exit 4")[1:]],
        env={**os.environ, "MIRRORFEED_SPOOL": str(path)},
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 4
    assert reason(path) == "sh exited with code 4"


def test_a_signal_without_a_name_is_told_by_its_number(shell: Shell, path: Path) -> None:
    """Real-time signals have none."""
    shell.run(*mirror("kill -40 $$"), expect=128 + 40)
    assert reason(path) == "sh was ended by signal 40"


def test_a_command_may_end_in_its_own_way_when_told_to(shell: Shell, path: Path) -> None:
    """If it exits with a code of its own, that is passed on."""
    process = shell.start(
        *mirror("trap 'exit 6' TERM; echo ready >&2; while :; do sleep 0.05; done")
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 6
    process.communicate()
    assert reason(path) == "sh was ended by SIGTERM: ready"


@pytest.mark.parametrize("script", ["exec {endless}", "{endless} & wait"])
def test_what_is_told_to_end_and_does_not_is_killed(
    script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command itself, or what it has started and left."""
    monkeypatch.setattr(command, "KILL_AFTER_SECONDS", 0.3)
    pid_file = tmp_path / "pid"
    loop = f"trap '' TERM; echo $$ >{pid_file}; while :; do sleep 0.02; done"
    deadline = Deadline.after(0.5)
    with PassedOnSignals() as signals:
        mirror = script.format(endless=shlex.join(["sh", "-c", loop]))
        ended = run_command(["sh", "-c", mirror], signals, print, deadline=deadline)
    assert ended == Ended(124, "sh took longer than 0.5 s and was ended")
    pid = int(pid_file.read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), PATIENCE_SECONDS, "its end")


def test_a_script_that_ends_normally_is_recorded(shell: Shell, path: Path) -> None:
    """The event has its name and when it ran; a script that fails leaves none."""
    shell.run("mirror-publisher", "run-script", "gc", "--", "sh", "-c", "echo hello")
    shell.run("mirror-publisher", "run-script", "gc", "--", "sh", "-c", "exit 5", expect=5)
    (run,) = spooled(path)
    assert isinstance(run.event, ScriptRun)
    assert run.event.name == "gc"
    assert run.event.completed_at == run.time


def test_the_shell_reports_step_by_step(shell: Shell, path: Path) -> None:
    """Three commands in three processes make one attempt."""
    shell.run("mirror-publisher", "started", "1")
    shell.run("mirror-publisher", "completed", "1", "rev-1")
    shell.run("mirror-publisher", "failed", "1", "why")
    shell.run(
        "mirror-publisher", "script-run", "gc", "--hostname", "vostok",
        "--started", "2007-07-05T19:32:01Z", "--completed", "2007-07-05T21:34:24+02:00",
    )  # fmt: skip
    start, end, failure, run = (envelope.event for envelope in spooled(path))
    assert getattr(end, "started_at", None) == getattr(start, "started_at", 0)
    assert isinstance(failure, MirrorFailed)
    assert isinstance(run, ScriptRun)
    assert run.hostname == "vostok"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("started", "0"), "branch_id must be a whole number from 1"),
        (("started", "one"), "ID"),
        (("started", str(2**63)), "got 9223372036854775808"),
        (("completed", "1", "rev"), "branch 1 has no attempt under way"),
        (("failed", "1", "x" * 8193), "reason must be at most 8192 characters"),
        (("script-run", "gc", "--started", "today", "--completed", "2026-01-01T00:00:00Z"),
         "--started 'today' is not an RFC 3339 time"),
        (("script-run", "gc", "--started", "2026-01-01T00:00:00",
          "--completed", "2026-01-01T00:00:00Z"), "no time zone"),
        (("forward", "--amqp-url", "http://host"), "the AMQP URL cannot be read"),
    ],
)  # fmt: skip
def test_bad_usage_exits_2_with_value_and_remedy(
    shell: Shell, arguments: tuple[str, ...], says: str
) -> None:
    """There is no traceback."""
    result = shell.run("mirror-publisher", *arguments, expect=2)
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_full_spool_exits_1(shell: Shell, path: Path) -> None:
    """The event was not taken, and the command says so."""
    spool = Spool(path, limit_bytes=1024 * 1024)
    with suppress(SpoolFull):
        for second in count():
            with spool.writing() as writer:
                writer.append(MirrorFailed(1, at(second), "x" * 8192), occurred_at=at(second))
    spool.close()
    result = shell.run(
        "mirror-publisher", "failed", "1", "x" * 8192, "--spool-limit-bytes", "1048576", expect=1
    )
    assert "is full, its limit is 1048576 bytes" in result.stderr


def test_status_of_no_spool_says_so(shell: Shell) -> None:
    """It does not create one."""
    assert "there is no spool" in shell.run("mirror-publisher", "status", expect=2).stderr


def test_draining_an_empty_spool_needs_no_broker(shell: Shell, path: Path) -> None:
    """There is nothing to send."""
    Spool(path).close()
    shell.run("mirror-publisher", "forward", "--drain", "--amqp-url", "amqp://127.0.0.1:1")


def test_draining_without_a_broker_exits_3(shell: Shell) -> None:
    """It gives up after the given time without progress, and the events stay."""
    shell.run("mirror-publisher", "started", "1")
    result = shell.run(
        "mirror-publisher", "forward", "--drain", "--stall-seconds", "0.5",
        "--amqp-url", "amqp://127.0.0.1:1", expect=3,
    )  # fmt: skip
    assert "the broker cannot be reached; events waiting: 1" in result.stderr


def test_the_forwarder_service_ends_by_sigterm(shell: Shell, path: Path) -> None:
    """It exits with 0, whether there is a broker or not."""
    process = shell.start("mirror-publisher", "forward", "--amqp-url", "amqp://127.0.0.1:1")
    lock = path.with_name("spool.db.forwarder")
    wait_until(lock.exists, PATIENCE_SECONDS, "the forwarder")
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, log
