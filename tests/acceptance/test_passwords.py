"""Where passwords are given, and that none is shown."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorfeed.contract import environment
from mirrorfeed.publisher import BranchStatusClient
from sandbox import PrivatePostgreSQL
from tests.commands import Shell
from tests.servers import take_all, wait_for

SECRET = "s3cret"
NOWHERE = "postgresql://127.0.0.1:1/x"


@pytest.fixture(scope="module")
def asking_url() -> Iterator[str]:
    """A database that asks for a password, with a wrong one."""
    with tempfile.TemporaryDirectory(prefix="mirrorfeed-hba-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user
        (folder / "hba.conf").write_text(
            "host all mirrorfeed 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        with PrivatePostgreSQL({"hba_file": str(folder / "hba.conf")}) as server:
            yield server.url.replace("mirrorfeed@", f"jane:{SECRET}@")


def why_waiting(shell: Shell) -> str:
    """The log of a worker up to where it waits for a server."""
    with shell.running("mirror-consumer", "run") as worker:
        assert worker.stderr is not None
        log = ""
        for line in worker.stderr:
            log += line
            if "is away" in line:
                break
        return log


def test_urls_may_be_in_files(shell: Shell, topology: str, tmp_path: Path) -> None:
    """This works for every command, and an option or variable takes precedence over the file."""
    files: dict[str, str] = {}
    for variable in (environment.AMQP_URL, environment.DATABASE_URL):
        file = tmp_path / variable
        file.write_text(shell.variables[variable] + "\n")
        files |= {f"{variable}_FILE": str(file), variable: ""}
    in_files = Shell({**shell.variables, **files})
    in_files.run("mirror-consumer", "branches", "add", "1", "one")
    in_files.run("mirror-publisher", "failed", "1", "why")
    in_files.run("mirror-publisher", "forward", "--drain")
    in_files.run("mirror-consumer", "run", "--drain")
    assert '"failing"' in in_files.run("mirror-consumer", "status", "--json").stdout
    in_files.run("mirror-consumer", "status", "--database-url", NOWHERE, expect=3)
    elsewhere = Shell({**in_files.variables, environment.DATABASE_URL: NOWHERE})
    elsewhere.run("mirror-consumer", "status", expect=3)


def test_the_client_looks_into_the_file_too(
    topology: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client without any argument reaches the broker named there."""
    file = tmp_path / "url"
    file.write_text(topology)
    monkeypatch.delenv(environment.AMQP_URL, raising=False)
    monkeypatch.setenv(f"{environment.AMQP_URL}_FILE", str(file))
    client = BranchStatusClient(tmp_path / "spool.db")
    client.start_mirroring(1)
    assert len(take_all(topology, 1)) == 1
    client.close()


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read"), (b"\xff", "cannot be read"), (b" \n", "empty")]
)
def test_a_file_that_holds_no_url_is_named(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    """The error also names the variable that points to it."""
    file = tmp_path / "url"
    if content is not None:
        file.write_bytes(content)
    for command, variable in (
        (("mirror-publisher", "forward"), environment.AMQP_URL),
        (("mirror-consumer", "health"), environment.DATABASE_URL),
    ):
        shell = Shell({f"{variable}_FILE": str(file), variable: ""})
        result = shell.run(*command, expect=2)
        assert f"{variable}_FILE names {file}" in result.stderr
        assert says in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("mirror-consumer", "init"),
        ("mirror-publisher", "forward", "--drain", "--stall-seconds", "1"),
    ],
)
def test_a_wrong_password_for_the_broker_is_not_shown(
    shell: Shell, topology: str, command: tuple[str, ...]
) -> None:
    """The command says that the login was refused, and exits with 3."""
    shell.run("mirror-publisher", "failed", "1", "why")
    user, _, host = topology.rpartition("@")
    wrong = f"{user.rpartition(':')[0]}:{SECRET}@{host}"
    result = Shell({**shell.variables, environment.AMQP_URL: wrong}).run(*command, expect=3)
    assert "Login was refused" in result.stderr
    assert SECRET not in result.stdout + result.stderr


def test_a_worker_that_may_not_log_in_waits_and_shows_no_password(
    shell: Shell, topology: str, asking_url: str
) -> None:
    """It keeps trying, since the password may be corrected while it runs."""
    wrong = f"amqp://jane:{SECRET}@{topology.rpartition('@')[2]}"
    log = why_waiting(Shell({**shell.variables, environment.AMQP_URL: wrong}))
    assert "Login was refused" in log
    assert SECRET not in log
    log = why_waiting(Shell({**shell.variables, environment.DATABASE_URL: asking_url}))
    assert "password authentication failed" in log
    assert SECRET not in log


@pytest.mark.parametrize(
    "command",
    [
        ("mirror-consumer", "init"),
        ("mirror-replay", "list"),
    ],
)
def test_a_wrong_password_for_the_database_is_not_shown(
    topology: str, asking_url: str, command: tuple[str, ...]
) -> None:
    """The command says that it was refused, and exits with 3."""
    shell = Shell({environment.AMQP_URL: topology, environment.DATABASE_URL: asking_url})
    result = shell.run(*command, expect=3)
    assert "password authentication failed" in result.stderr
    assert SECRET not in result.stdout + result.stderr


def test_help_shows_no_password() -> None:
    """This holds for passwords from variables and from files."""
    shell = Shell(
        {
            environment.AMQP_URL: f"amqp://jane:{SECRET}@host",
            environment.DATABASE_URL: f"postgresql://jane:{SECRET}@host/x",
        }
    )
    for command in (
        ("mirror-publisher", "forward", "--help"),
        ("mirror-consumer", "run", "--help"),
        ("mirror-replay", "apply", "--help"),
    ):
        text = shell.run(*command).stdout
        assert "_FILE" in text
        assert SECRET not in text


def test_what_commands_start_has_no_password_in_its_arguments(tmp_path: Path) -> None:
    """Process lists show arguments; a mirror command's are exactly what its user wrote."""
    shell = Shell(
        {
            environment.AMQP_URL: f"amqp://jane:{SECRET}@127.0.0.1:1",
            environment.SPOOL: str(tmp_path / "spool.db"),
        }
    )
    publisher = shell.start("mirror-publisher", "run", "--branch", "1", "--", "sleep", "60")
    children = Path(f"/proc/{publisher.pid}/task/{publisher.pid}/children")
    wait_for(lambda: bool(children.read_text().split()), "the mirror command")
    (child,) = children.read_text().split()
    wait_for(lambda: b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes(), "it to begin")
    try:
        for process in (publisher.pid, int(child)):
            assert SECRET.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
    finally:
        os.kill(publisher.pid, 15)
        publisher.communicate(timeout=10)
