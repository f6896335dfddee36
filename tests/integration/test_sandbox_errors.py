"""What the machine lacks is told in one line, with the remedy, and never by a traceback."""

import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from sandbox import AMQP_URL, DATABASE_URL, PrivatePostgreSQL, PrivateRabbitMQ, SandboxError
from sandbox.ports import PortBlock
from sandbox.programs import run

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 120
SANDBOX = (sys.executable, "-m", "sandbox", "--", "echo", "both are there")
DEMO = (sys.executable, "-m", "demo")
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
ONE_TEST = "tests/integration/test_schema.py"
NOWHERE = {AMQP_URL: "amqp://nowhere.invalid", DATABASE_URL: "postgresql://nowhere.invalid/x"}

pytestmark = pytest.mark.skipif(
    not (Path("/usr/lib/rabbitmq/bin").exists() and Path("/usr/lib/postgresql").exists()),
    reason="needs Debian's packages rabbitmq-server and postgresql",
)


def ended(*command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """With private servers, unless the variables name others."""
    inherited = {name: value for name, value in os.environ.items() if name not in NOWHERE}
    return subprocess.run(
        command,
        cwd=ROOT,
        # No container engine shall be found: its servers lack other things.
        env={**inherited, "DOCKER_HOST": "unix:///nowhere", **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def with_mounts(script: str, *command: str) -> "subprocess.CompletedProcess[str]":
    """A command that sees the machine as a script has changed it, which root can do."""
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("only root can mount, and not in every container")
    return ended("unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh", *command)


@pytest.mark.parametrize("command", [SANDBOX, DEMO], ids=["sandbox", "demo"])
def test_a_full_disk(command: tuple[str, ...], small_disk: Path) -> None:
    """The folder, how much it has left, and how much is needed."""
    result = ended(*command, TMPDIR=str(small_disk))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"{small_disk} has 20 MB left, and a private" in line
    assert line.endswith("needs 250 MB: make room, or set TMPDIR to a folder on another disk")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_tests_end_at_once_with_the_same_line(processes: tuple[str, ...], small_disk: Path) -> None:
    """Not each of them with a traceback of its own."""
    result = ended(*PYTEST, *processes, ONE_TEST, TMPDIR=str(small_disk))
    assert result.returncode == pytest.ExitCode.INTERRUPTED
    assert "MB left, and a private" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert len(result.stdout.splitlines()) < 10


@pytest.mark.parametrize("needed", NOWHERE)
def test_tests_name_a_given_server_that_does_not_resolve(needed: str) -> None:
    """And the variable that named it."""
    test = "test_topology" if needed == AMQP_URL else "test_schema"
    result = ended(*PYTEST, f"tests/integration/{test}.py", **NOWHERE)
    assert result.returncode == pytest.ExitCode.INTERRUPTED
    assert "nowhere.invalid" in result.stdout
    assert f"unset {needed}" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert len(result.stdout.splitlines()) < 10


def test_the_demo_names_a_given_server_that_does_not_resolve() -> None:
    """With the exit code of a server that cannot be reached."""
    result = ended(*DEMO, **NOWHERE)
    assert result.returncode == 3
    (line,) = result.stderr.splitlines()
    assert "a server cannot be reached: the broker at nowhere.invalid" in line


def test_localhost_does_not_resolve() -> None:
    """RabbitMQ's node is named after it."""
    result = with_mounts("mount --bind /dev/null /etc/hosts", *SANDBOX)
    if "both are there" in result.stdout:
        pytest.skip("something else than /etc/hosts resolves localhost here")
    (line,) = result.stderr.splitlines()
    assert line.startswith("sandbox: the name localhost does not ")
    assert line.endswith("add the line '127.0.0.1 localhost' to /etc/hosts")


def test_no_shared_memory_is_needed() -> None:
    """Both servers run where /dev/shm cannot be written."""
    result = with_mounts("mount -t tmpfs -o ro tmpfs /dev/shm", *SANDBOX)
    assert result.stdout == "both are there\n", result.stderr


def test_too_little_memory() -> None:
    """RabbitMQ ends with a page of its own, or by a signal."""
    limited = ("sh", "-c", 'ulimit -v 1000000 && exec "$@"', "sh")
    result = ended(*limited, *SANDBOX)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("sandbox: a private RabbitMQ cannot be started: there is too little")


def test_all_ports_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where to look for who has them."""
    with ExitStack() as stack:
        taken = PortBlock()
        stack.callback(taken.close)
        first = taken.ports[0] - 1
        monkeypatch.setattr("sandbox.ports._BLOCKS", range(first, first + 4, 4))
        with pytest.raises(SandboxError, match=r"no four ports in a row are free .*\(ss -ltnp\)$"):
            PrivateRabbitMQ().start()


@pytest.mark.parametrize("kind", [PrivateRabbitMQ, PrivatePostgreSQL])
def test_a_port_is_taken_meanwhile(kind: type[PrivateRabbitMQ | PrivatePostgreSQL]) -> None:
    """By somebody who does not know that it is reserved."""
    with kind() as server:
        server.terminate()
        assert server.folder is not None
        with (
            socket.create_server(("127.0.0.1", server.folder.ports[0])),
            pytest.raises(
                SandboxError, match=r"another program has taken one of its ports"
            ) as error,
        ):
            server.start()
        assert "\n" not in str(error.value)


def test_a_folder_that_the_database_may_not_enter(tmp_path: Path) -> None:
    """As root, PostgreSQL runs as postgres."""
    if os.geteuid() != 0:
        pytest.skip("only root runs PostgreSQL as another user")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    result = ended(*SANDBOX, TMPDIR=str(closed))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "the user postgres may not enter the folder for temporary files: set TMPDIR" in line


def test_a_program_that_hangs_is_ended_and_quoted() -> None:
    """With what it said until then."""
    with pytest.raises(SandboxError, match=r"^sh -c did not end within 0\.2 s.*\nhalf way$"):
        run(["sh", "-c", "echo half way; exec sleep 60"], timeout_seconds=0.2)


def test_a_program_that_fails_is_quoted() -> None:
    """Both of what it said."""
    with pytest.raises(SandboxError, match=r"(?s)^sh -c failed with exit code 7; it said:\na\nb$"):
        run(["sh", "-c", "echo a; echo b >&2; exit 7"], timeout_seconds=10)


def test_a_program_that_is_missing_is_named() -> None:
    """No traceback for want of a package."""
    assert shutil.which("no-such-program") is None
    with pytest.raises(SandboxError, match="no-such-program"):
        run(["no-such-program"], timeout_seconds=10)
