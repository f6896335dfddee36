"""What each service answers over HTTP, and tells systemd, as its servers come and go."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.contract import environment
from sandbox.ports import LOOPBACK, PortBlock
from tests.commands import Shell
from tests.probes import ask, says
from tests.servers import wait_for

AWAY = "amqp://guest:guest@127.0.0.1:1/%2F"
"""Nobody listens there."""
SERVICES = [("mirror-consumer", "run"), ("mirror-publisher", "forward")]
NOTIFYING = [*SERVICES, ("mirror-publisher", "authserver", "--port", "0")]


@pytest.fixture
def port() -> Iterator[int]:
    block = PortBlock()
    yield block.ports[0]
    block.close()


def http(port: int) -> tuple[str, str]:
    return "--http", f"{LOOPBACK}:{port}"


@pytest.mark.parametrize("command", SERVICES, ids=" ".join)
def test_a_service_with_its_servers_is_live_and_ready(
    command: tuple[str, ...], shell: Shell, port: int
) -> None:
    """And its metrics can be scraped."""
    with shell.running(*command, *http(port)):
        wait_for(lambda: says(port, "/ready") == 200, "the service")
        assert ask(port, "/live").text == "live\n"
        assert "process_cpu_seconds_total " in ask(port, "/metrics").text


@pytest.mark.parametrize("command", SERVICES, ids=" ".join)
def test_a_service_whose_broker_is_away_is_live_and_not_ready(
    command: tuple[str, ...], shell: Shell, port: int
) -> None:
    """A restart would not help; and it says why."""
    alone = Shell({**shell.variables, environment.AMQP_URL: AWAY})
    with alone.running(*command, *http(port)):
        wait_for(lambda: says(port, "/ready") == 503, "the service")
        wait_for(lambda: "127.0.0.1:1" in ask(port, "/ready").text, "the cause")
        assert ask(port, "/live").status == 200


def test_a_worker_whose_database_refuses_it_is_not_ready(
    shell: Shell, engine: Engine, port: int
) -> None:
    """Although nothing is in hand that it could retry; and it is ready again by itself."""
    with shell.running("mirror-consumer", "run", *http(port)):
        wait_for(lambda: says(port, "/ready") == 200, "the worker")
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE worker RENAME TO elsewhere"))
        wait_for(lambda: says(port, "/ready") == 503, "the worker to notice")
        assert '"worker" does not exist' in ask(port, "/ready").text
        assert ask(port, "/live").status == 200
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO worker"))
        wait_for(lambda: says(port, "/ready") == 200, "recovery")


@pytest.mark.parametrize("command", SERVICES, ids=" ".join)
def test_a_port_that_is_taken_is_an_error_that_says_so(
    command: tuple[str, ...], shell: Shell
) -> None:
    """At once, and whoever has the port keeps it."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        result = shell.run(*command, *http(port), expect=2)
    assert result.stderr.endswith(
        f"cannot listen on 127.0.0.1 port {port}: Address already in use; give another --http\n"
    )


@pytest.mark.parametrize("command", SERVICES, ids=" ".join)
def test_a_drain_leaves_the_port_to_the_service(command: tuple[str, ...], shell: Shell) -> None:
    """It may be run where the service's environment is set."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        address = f"{LOOPBACK}:{taken.getsockname()[1]}"
        Shell({**shell.variables, environment.HTTP: address}).run(*command, "--drain")


@pytest.mark.parametrize("command", SERVICES, ids=" ".join)
def test_the_address_can_be_in_the_environment(command: tuple[str, ...], shell: Shell) -> None:
    """One that cannot be read is named, and what to give instead."""
    result = Shell({**shell.variables, environment.HTTP: "9470"}).run(*command, expect=2)
    assert "--http '9470' is not HOST:PORT: give it as 127.0.0.1:9470" in result.stderr


@pytest.mark.parametrize("command", NOTIFYING, ids=" ".join)
def test_systemd_is_told_from_the_beginning_to_the_end(
    command: tuple[str, ...], shell: Shell, tmp_path: Path
) -> None:
    """That it is ready, that it lives, and that it stops."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name)
        systemd.settimeout(30)

        def wait_for_line(expected: str) -> None:
            while expected not in systemd.recv(4096).decode().split("\n"):
                pass

        with Shell({**shell.variables, "NOTIFY_SOCKET": name}).running(*command):
            wait_for_line("READY=1")
            wait_for_line("WATCHDOG=1")
        wait_for_line("STOPPING=1")
