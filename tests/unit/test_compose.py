"""`docker compose up`, as Compose itself understands the file."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mirrorfeed.contract import environment
from mirrorfeed.contract.wire import MAX_READABLE_BYTES
from tests.commands import Shell

ROOT = Path(__file__).parents[2]
ENDS_SECONDS = 10.0
"""How long a worker may take to end (guarantee 13)."""


def compose(**variables: str) -> Any:
    """The file as Compose reads it, which refuses what it does not know."""
    command = [str(Path(sys.executable).with_name("docker-compose")), "--env-file", "/dev/null"]
    result = subprocess.run(
        [*command, "--file", str(ROOT / "compose.yaml"), "config", "--format", "json"],
        env=variables,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services with nothing set in the environment."""
    found = compose()["services"]
    assert isinstance(found, dict)
    return found


def test_ports_are_of_this_host_only(services: dict[str, Any]) -> None:
    """Docker publishes to every interface unless told otherwise."""
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    usual = {str(urlsplit(environment.DEFAULT_AMQP_URL).port), "5432"}
    assert usual <= {port["published"] for port in published}


def test_postgresql_is_asked_for_the_database_it_makes(services: dict[str, Any]) -> None:
    """The user and the database of the health check are those that exist."""
    *_, user, _, database = services["postgres"]["healthcheck"]["test"]
    made = services["postgres"]["environment"]
    assert (user, database) == (made["POSTGRES_USER"], made["POSTGRES_DB"])


def test_the_worker_begins_when_all_it_needs_is_there(services: dict[str, Any]) -> None:
    """Servers answer before they are set up, and everything is set up before it runs."""
    needed, found = ["consumer"], set()
    while needed:
        for name, each in services[needed.pop()].get("depends_on", {}).items():
            is_server = "healthcheck" in services[name]
            expected = "service_healthy" if is_server else "service_completed_successfully"
            assert each["condition"] == expected, name
            found.add(name)
            needed.append(name)
    assert found == set(services) - {"consumer"}


@pytest.mark.parametrize("service", ["setup", "consumer"])
def test_a_service_runs_a_command_of_ours(services: dict[str, Any], service: str) -> None:
    """One that exists and takes these arguments."""
    Shell({}).run(*services[service]["command"], "--help")


def test_the_worker_has_time_to_settle_its_batch(services: dict[str, Any]) -> None:
    """Docker waits longer than a worker takes, and starts one that died again."""
    grace = services["consumer"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > ENDS_SECONDS
    assert services["consumer"]["restart"] == "unless-stopped"


def test_data_outlives_the_containers(services: dict[str, Any]) -> None:
    """RabbitMQ finds its data again only under the host name it had."""
    assert services["postgres"]["volumes"][0]["target"] == "/var/lib/postgresql/data"
    assert services["rabbitmq"]["volumes"][0]["target"] == "/var/lib/rabbitmq"
    assert services["rabbitmq"]["hostname"] == "rabbitmq"


@pytest.mark.parametrize(
    ("variables", "database_password", "broker_password"),
    [
        ({}, "mirrorfeed", "mirrorfeed"),
        ({"POSTGRES_PASSWORD": "pg0", "RABBITMQ_PASSWORD": "mq0"}, "pg0", "mq0"),
    ],
)
def test_everybody_has_a_user_that_the_server_has(
    variables: dict[str, str], database_password: str, broker_password: str
) -> None:
    """The worker's user owns nothing, and passwords come from the environment."""
    read = compose(**variables, **{environment.PARTITIONS: "8"})
    services, configs = read["services"], read["configs"]
    users = json.loads(configs["rabbitmq-users"]["content"])["users"]
    assert {user["name"]: user["password"] for user in users} == dict.fromkeys(
        ("puller", "worker", "setup"), broker_password
    )
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == database_password
    for role in ("worker", "operator", "reader"):
        made = f"ALTER ROLE {role} PASSWORD '{database_password}';"
        assert made in configs["users"]["content"]
    for service, database_user, broker_user in (
        ("setup", "mirrorfeed", "setup"),
        ("consumer", "worker", "worker"),
    ):
        assert services[service]["environment"] == {
            environment.DATABASE_URL: (
                f"postgresql://{database_user}:{database_password}@postgres:5432/mirrorfeed"
            ),
            environment.AMQP_URL: (f"amqp://{broker_user}:{broker_password}@rabbitmq:5672/%2F"),
            environment.PARTITIONS: "8",
        }


def test_the_servers_are_given_the_files_that_define_the_rights(services: dict[str, Any]) -> None:
    """Permissions are loaded after the users they belong to."""
    configs = compose()["configs"]
    assert configs["roles"]["file"] == str(ROOT / "roles.sql")
    definitions = ROOT / "packaging" / "rabbitmq" / "definitions.json"
    assert configs["rabbitmq-permissions"]["file"] == str(definitions)
    targets = {each["source"]: each["target"] for each in services["rabbitmq"]["configs"]}
    assert targets["rabbitmq-users"] < targets["rabbitmq-permissions"]
    folder = str(Path(targets["rabbitmq-users"]).parent)
    assert f"load_definitions = {folder}\n" in configs["rabbitmq-conf"]["content"]
    permissions = json.loads(definitions.read_text())["permissions"]
    assert {each["user"] for each in permissions} == {"puller", "worker", "setup"}
    for each in permissions:
        for right in ("configure", "write", "read"):
            assert re.fullmatch(r"\^.*\$", each[right])  # anchored: else mirror.eventsX would fit


def test_the_broker_takes_no_message_that_a_worker_would_not_read() -> None:
    """By default it takes much larger ones."""
    lines = compose()["configs"]["rabbitmq-conf"]["content"].splitlines()
    assert f"max_message_size = {MAX_READABLE_BYTES}" in lines


def test_the_image_gets_all_that_the_package_is_built_from() -> None:
    """That includes what `mirrorfeed/` links to."""
    copied = {
        name.strip("/")
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    let_through = {
        line.removeprefix("!").strip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert copied == let_through
    linked = {path.readlink().name for path in (ROOT / "mirrorfeed").iterdir() if path.is_symlink()}
    assert linked | {"pyproject.toml", "packaging/package-index.md", "mirrorfeed"} <= copied
    assert {"consumer", "publisher", "schema.sql"} <= linked
