"""Several addresses of a server: what is dead is passed by."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, text

from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.migrations import bring_forward
from mirrorfeed.contract import environment
from sandbox import Server, own_broker, own_database
from sandbox.ports import PortBlock
from tests.builders import failed
from tests.commands import Shell
from tests.servers import publish_events, register_branches, wait_for_rows

FAILURES = "SELECT mirror_failures FROM branch"


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port of this host on which nobody listens."""
    block = PortBlock()
    yield block.ports[0]
    block.close()


def test_publisher_and_worker_go_on_with_the_next_broker(
    engine: Engine, database_url: str, tmp_path: Path, dead_port: int
) -> None:
    """Two of three addresses are dead at first, later another two."""
    register_branches(engine, 1)
    with own_broker() as first, own_broker() as second:
        second.terminate()
        shell = Shell(
            {
                environment.AMQP_URL: f"amqp://127.0.0.1:{dead_port},{first.url},{second.url}",
                environment.DATABASE_URL: database_url,
                environment.SPOOL: str(tmp_path / "spool.db"),
            }
        )
        shell.run("mirror-consumer", "init")
        with (
            shell.running("mirror-publisher", "forward"),
            shell.running("mirror-consumer", "run"),
        ):
            shell.run("mirror-publisher", "failed", "1", "why")
            wait_for_rows(engine, FAILURES, [(1,)])
            first.kill()
            shell.run("mirror-publisher", "failed", "1", "why")
            second.start()
            wait_for_rows(engine, FAILURES, [(2,)])


def engine_of(server: Server) -> Engine:
    engine = open_engine(server.url)
    bring_forward(engine)
    register_branches(engine, 1)
    return engine


def test_a_worker_goes_on_with_the_database_that_can_be_written(
    topology: str, dead_port: int
) -> None:
    """Of three hosts, one is dead and one is read-only at first."""
    with own_database() as standby, own_database() as primary:
        user, _, _ = primary.url.rpartition("@")
        hosts = [f"127.0.0.1:{dead_port}", host_of(standby), host_of(primary)]
        url = f"{user}@{','.join(hosts)}/mirrorfeed?target_session_attrs=read-write"
        shell = Shell({environment.AMQP_URL: topology, environment.DATABASE_URL: url})
        standby_engine, primary_engine = engine_of(standby), engine_of(primary)
        make_read_only(standby_engine, "on")
        with shell.running("mirror-consumer", "run"):
            publish_events(topology, failed(1, 0, "why"))
            wait_for_rows(primary_engine, FAILURES, [(1,)])
            primary.kill()
            make_read_only(standby_engine, "off")
            publish_events(topology, failed(1, 1, "why"))
            wait_for_rows(standby_engine, FAILURES, [(1,)])
        standby_engine.dispose()
        primary_engine.dispose()


def host_of(server: Server) -> str:
    url = make_url(server.url)
    return f"{url.host}:{url.port}"


def make_read_only(engine: Engine, setting: str) -> None:
    """As a standby is; libpq looks at both."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET default_transaction_read_only = off"))
        connection.execute(text(f"ALTER SYSTEM SET default_transaction_read_only = {setting}"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
