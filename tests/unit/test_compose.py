"""`docker compose up`, as Compose itself understands the file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contract import environment

ROOT = Path(__file__).parents[2]


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


def test_there_are_both_servers_and_the_consumer(services: dict[str, Any]) -> None:
    """A first `docker compose up` needs nothing else."""
    assert set(services) == {"postgres", "rabbitmq", "consumer"}
    assert services["postgres"]["image"] == "postgres:17"
    assert services["rabbitmq"]["image"] == "rabbitmq:4-management"


def test_ports_are_of_this_host_only(services: dict[str, Any]) -> None:
    """Docker publishes to every interface unless told otherwise."""
    published = {
        (port["host_ip"], port["published"], port["target"])
        for service in services.values()
        for port in service.get("ports", [])
    }
    assert published == {
        ("127.0.0.1", "5432", 5432),
        ("127.0.0.1", "5672", 5672),
        ("127.0.0.1", "15672", 15672),
    }


@pytest.mark.parametrize(
    ("service", "command"),
    [
        ("postgres", "CMD pg_isready -h 127.0.0.1 -U mirrorfeed -d mirrorfeed"),
        ("rabbitmq", "CMD rabbitmq-diagnostics -q check_port_connectivity"),
        ("consumer", "CMD mirror-consumer health"),
    ],
)
def test_a_service_is_healthy_when_its_clients_can_use_it(
    services: dict[str, Any], service: str, command: str
) -> None:
    """Neither Erlang running nor a database that is still being set up is enough."""
    assert " ".join(services[service]["healthcheck"]["test"]) == command


def test_postgresql_is_asked_for_the_database_it_makes(services: dict[str, Any]) -> None:
    """The user and the database of the health check are those that exist."""
    *_, user, _, database = services["postgres"]["healthcheck"]["test"]
    made = services["postgres"]["environment"]
    assert (user, database) == (made["POSTGRES_USER"], made["POSTGRES_DB"])


def test_the_consumer_waits_for_healthy_servers(services: dict[str, Any]) -> None:
    """It starts when both can be used, not when both have been started."""
    conditions = {
        name: dependency["condition"]
        for name, dependency in services["consumer"]["depends_on"].items()
    }
    assert conditions == {"postgres": "service_healthy", "rabbitmq": "service_healthy"}


def test_the_consumer_sets_up_then_works(services: dict[str, Any]) -> None:
    """In the shell's place, so that SIGTERM reaches it, with time to settle its batch."""
    consumer = services["consumer"]
    assert consumer["command"] == ["sh", "-c", "mirror-consumer init && exec mirror-consumer run"]
    assert consumer["stop_grace_period"] == "15s"
    assert consumer["restart"] == "unless-stopped"


def test_data_outlives_the_containers(services: dict[str, Any]) -> None:
    """RabbitMQ finds its data again only under the host name it had."""
    assert services["postgres"]["volumes"][0]["target"] == "/var/lib/postgresql/data"
    assert services["rabbitmq"]["volumes"][0]["target"] == "/var/lib/rabbitmq"
    assert services["rabbitmq"]["hostname"] == "rabbitmq"


def test_a_puller_on_this_host_needs_no_settings(services: dict[str, Any]) -> None:
    """The broker takes what the publisher uses by default."""
    made = services["rabbitmq"]["environment"]
    user, password = made["RABBITMQ_DEFAULT_USER"], made["RABBITMQ_DEFAULT_PASS"]
    assert f"amqp://{user}:{password}@127.0.0.1:5672/%2F" == environment.DEFAULT_AMQP_URL


def test_passwords_and_partitions_come_from_the_environment() -> None:
    """The servers and the consumer get the same ones."""
    services = compose(
        POSTGRES_PASSWORD="pg0", RABBITMQ_PASSWORD="mq0", **{environment.PARTITIONS: "8"}
    )["services"]
    consumer = services["consumer"]["environment"]
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == "pg0"
    assert services["rabbitmq"]["environment"]["RABBITMQ_DEFAULT_PASS"] == "mq0"
    assert consumer == {
        environment.DATABASE_URL: "postgresql://mirrorfeed:pg0@postgres:5432/mirrorfeed",
        environment.AMQP_URL: "amqp://guest:mq0@rabbitmq:5672/%2F",
        environment.PARTITIONS: "8",
    }


def test_the_image_gets_all_that_the_package_is_built_from() -> None:
    """Also what `consumer/schema.sql` links to."""
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
    assert {"pyproject.toml", "README.md", "contract", "publisher", "consumer"} <= copied
    linked = (ROOT / "consumer" / "schema.sql").resolve().relative_to(ROOT.resolve())
    assert str(linked) in copied
