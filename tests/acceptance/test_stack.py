"""`docker compose up` and what docs/containers.md says of it, where a container engine answers."""

import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from secrets import token_hex
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.servers import wait_for

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 600.0
"""The first `up` may have images to pull and dependencies to install."""
PORTS = ("POSTGRES_PORT", "RABBITMQ_PORT", "RABBITMQ_MANAGEMENT_PORT", "WEB_PORT")
PULL = """
cd /tmp
git init -q --bare --initial-branch main upstream.git
git init -q work
cd work
git -c user.name=jane -c user.email=jane@example.org commit -q --allow-empty -m first
git push -q ../upstream.git HEAD:refs/heads/main
printf 'id,unique_name,url\n18,~jane/project/trunk,file:///tmp/upstream.git\n' > list.csv
mirror-puller run list.csv --once --allow-protocol file
"""
"""From an upstream that lives as long as its container."""
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
        found.compose("down", "--volumes", "--remove-orphans")
        for image in docker("images", "--format", "{{.Repository}}", f"{name}*").split():
            docker("rmi", image)
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


def test_whoever_has_the_password_sees_the_page(stack: Stack) -> None:
    """On this host's port; others are asked for it."""
    address = f"http://{stack.compose('port', 'web', '8070').strip()}/workers"
    secret = b64encode(b"operator:mirrorfeed").decode()
    with urlopen(Request(address, headers={"Authorization": f"Basic {secret}"})) as answer:
        assert "Workers" in answer.read().decode()
    with pytest.raises(HTTPError) as refused:
        urlopen(address)
    refused.value.close()
    assert refused.value.code == HTTPStatus.UNAUTHORIZED


def test_a_puller_mirrors_and_is_heard(stack: Stack) -> None:
    """Its image has git; its spool and its mirrors are in volumes."""
    stack.command("mirror-consumer", "branches", "add", "18", "~jane/project/trunk")
    stack.command("sh", "-euc", PULL, service="puller")

    def revision() -> str | None:
        status = json.loads(stack.command("mirror-consumer", "status", "18", "--json"))
        found: str | None = status["branches"][0]["last_mirrored_id"]
        return found

    wait_for(lambda: revision() is not None, "the branch to be mirrored")
    seen = stack.command("mirror-puller", "status", "--json", service="puller")
    # Before that there may be what the image was built with.
    (mirror,) = json.loads(seen.splitlines()[-1])["branches"]
    assert mirror["revision"] == revision()


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
        path.read_text().strip().partition("@")[0].rpartition(":")[2]
        for pattern in ("*-url", "*-password")
        for path in (stack.clone / "secrets").glob(pattern)
    ]
    assert len(set(passwords)) == 8
    assert not any(password in told for password in passwords)
    stack.compose("up", "--detach")
