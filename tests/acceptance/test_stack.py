"""`docker compose up` and what docs/containers.md says of it, where a container engine answers."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex

import pytest

from tests.servers import wait_for

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 600.0
"""The first `up` may have images to pull and dependencies to install."""
PORTS = ("POSTGRES_PORT", "RABBITMQ_PORT", "RABBITMQ_MANAGEMENT_PORT", "WEB_PORT")
DOCKER = shutil.which("docker") or "docker"


@dataclass(frozen=True)
class Stack:
    """A clone's stack, under a name and on ports of its own."""

    clone: Path
    name: str
    variables: dict[str, str]

    def compose(self, *arguments: str, typed: str | None = None) -> str:
        """Runs `docker compose` to its end and returns what it printed."""
        result = self.attempt(*arguments, typed=typed)
        assert result.returncode == 0, f"{arguments}: {result.stdout}\n{result.stderr}"
        return result.stdout

    def attempt(
        self, *arguments: str, typed: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [DOCKER, "compose", "--project-name", self.name, "--profile", "publisher", *arguments],
            cwd=self.clone,
            env={**os.environ, **self.variables},
            input=typed,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    def command(self, *command: str, service: str = "operator") -> str:
        """Runs a command in a container of its own."""
        return self.compose("run", "--rm", "--no-TTY", service, *command)

    def with_variables(self, **variables: str) -> "Stack":
        return replace(self, variables={**self.variables, **variables})

    def wait_until_well(self) -> None:
        """A worker that is live may still have to subscribe."""
        asking = ("run", "--rm", "--no-TTY", "operator", "mirror-consumer", "health", "--quiet")
        wait_for(lambda: self.attempt(*asking).returncode == 0, "all workers to be well")

    @property
    def is_healthy(self) -> bool:
        """Whether the worker's health check has passed."""
        listed = json.loads(self.compose("ps", "--format", "json", "consumer"))
        return bool(listed["Health"] == "healthy")


def docker(*arguments: str) -> str:
    """What docker prints."""
    return subprocess.run(
        [DOCKER, *arguments], stdout=subprocess.PIPE, encoding="utf-8", check=True
    ).stdout


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One that has come up from a clone that nobody else may read, and is healthy."""
    for needed in (("info",), ("compose", "version")):
        if subprocess.run([DOCKER, *needed], capture_output=True, check=False).returncode != 0:
            pytest.skip(f"docker {needed[0]} does not answer")
    clone = tmp_path_factory.mktemp("stack") / "mirrorfeed"
    subprocess.run(["sh", "-c", 'umask 077; git clone -q "$0" "$1"', ROOT, clone], check=True)
    name = f"mirrorfeed-test-{token_hex(4)}"
    ports = dict.fromkeys(PORTS, "0")
    volumes = docker("volume", "ls", "--quiet")
    found = Stack(clone, name, {**ports, "MIRRORFEED_IMAGE": name})
    try:
        found.compose("up", "--detach")
        wait_for(lambda: found.is_healthy, "the worker's health check")
        yield found
    finally:
        found.compose("down", "--volumes", "--remove-orphans", "--rmi", "local")
    assert docker("volume", "ls", "--quiet") == volumes


def test_a_puller_and_an_operator_are_served(stack: Stack) -> None:
    """Rights, the spool's volume, partitions and a file from standard input."""
    registered = stack.compose(
        *("run", "--rm", "--no-TTY", "operator", "mirror-consumer", "branches", "import", "-"),
        typed="id,unique_name,url\n17,~jane/project/main,\n",
    )
    assert "1 new" in registered
    stack.command("mirror-consumer", "topology", "--partitions", "3")
    mirror = ("mirror-publisher", "run", "--branch", "17", "--", "true")
    stack.command(*mirror, service="publisher")

    def is_mirrored() -> bool:
        status = json.loads(stack.command("mirror-consumer", "status", "17", "--json"))
        return bool(status["branches"][0]["state"] == "mirrored")

    wait_for(is_mirrored, "the branch to be mirrored")
    stack.wait_until_well()


def test_new_passwords_are_taken_over(stack: Stack) -> None:
    """`up` returns, and only the new ones are worth anything."""
    changed = stack.with_variables(POSTGRES_PASSWORD="new-0", RABBITMQ_PASSWORD="new-1")
    changed.compose("up", "--detach")
    wait_for(lambda: changed.is_healthy, "the worker's health check")
    changed.wait_until_well()
    for variable in ("POSTGRES_PASSWORD", "RABBITMQ_PASSWORD"):
        half = changed.with_variables(**{variable: "mirrorfeed"})
        refused = half.attempt("run", "--rm", "--no-TTY", "operator", "mirror-consumer", "health")
        assert refused.returncode == 3, refused.stderr
    stack.compose("up", "--detach")


def test_an_up_that_cannot_set_up_ends(stack: Stack) -> None:
    """With what was wrong."""
    wrong = stack.with_variables(MIRRORFEED_PARTITIONS="many")
    result = wrong.attempt("up", "--detach")
    assert result.returncode != 0
    assert 'service "setup" didn\'t complete successfully' in result.stderr
    assert "'many' is not a valid int" in wrong.compose("logs", "setup")
    stack.compose("up", "--detach")


def test_passwords_in_files_replace_those_in_the_environment(stack: Stack) -> None:
    """In a stack that is running, under any umask; nothing tells them."""
    subprocess.run(["sh", stack.clone / "packaging/compose/make-secrets.sh"], check=True)
    files = "compose.yaml:packaging/compose/secrets.yaml"
    changed = stack.with_variables(COMPOSE_FILE=files)
    changed.compose("up", "--detach")
    wait_for(lambda: changed.is_healthy, "the worker's health check")
    changed.wait_until_well()
    told = docker("inspect", *changed.compose("ps", "--all", "--quiet").split())
    passwords = [
        path.read_text().partition("@")[0].rpartition(":")[2]
        for path in (stack.clone / "secrets").glob("*-url")
    ]
    assert len(passwords) == 5
    assert not any(password in told for password in passwords)
    stack.compose("up", "--detach")
