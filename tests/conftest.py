"""Servers for the tests: found once a run, and clean for each test."""

import os
import signal
import subprocess
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import Engine, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from mirrorfeed.amqp.connections import BrokerUnavailable, broker_channel, connection_parameters
from mirrorfeed.consumer.database import first_line, open_engine
from mirrorfeed.consumer.migrations import bring_forward
from mirrorfeed.consumer.partitions.layout import unchanging_layout
from mirrorfeed.consumer.partitions.topology import declare_topology, find_topology
from mirrorfeed.contract import environment, routing
from sandbox import SandboxError, find_broker, find_database
from tests.commands import Shell
from tests.servers import delete_topology, new_database

SANDBOX_ERROR = "sandbox_error"

# What started the tests may ignore these, as nohup does, but the commands must not inherit that.
for ignored, usual in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, usual)

# Examples are drawn from a fixed seed: a run that was green stays green.
settings.register_profile("mirrorfeed", deadline=None, derandomize=True)
settings.load_profile("mirrorfeed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two processes with servers of their own; on a broker that was given only one has room."""
    return 1 if environment.AMQP_URL in os.environ else 2


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Without servers no test has anything to say: one line does."""
    try:
        yield
    except SandboxError as error:
        if hasattr(item.config, "workeroutput"):  # in one of pytest-xdist's processes
            item.config.workeroutput[SANDBOX_ERROR] = str(error)
        pytest.exit(str(error), pytest.ExitCode.INTERRUPTED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What ended one of pytest-xdist's processes ends the run."""
    if said := getattr(node, "workeroutput", {}).get(SANDBOX_ERROR):
        pytest.exit(said, pytest.ExitCode.INTERRUPTED)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB, which root can mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk, and not in every container")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """A broker on which nobody else's mirrorfeed runs."""
    with find_broker() as broker:
        try:
            with broker_channel(connection_parameters(broker.url)) as channel:
                found = find_topology(channel, routing.DEFAULT_PARTITIONS)
        except BrokerUnavailable as error:
            raise SandboxError(
                f"{error}; look after it, or unset {environment.AMQP_URL}"
            ) from error
        if found:
            pytest.exit(
                f"{environment.AMQP_URL} names a broker that has {', '.join(found)} already: give"
                " the tests a virtual host of their own"
            )
        yield broker.url


@pytest.fixture
def amqp_url(broker_url: str) -> Iterator[str]:
    """A broker as it is before `mirror-consumer init`."""
    yield broker_url
    delete_topology(broker_url)


@pytest.fixture
def topology(amqp_url: str) -> str:
    """The same broker, as it is after `mirror-consumer init`."""
    with broker_channel(connection_parameters(amqp_url)) as channel:
        declare_topology(channel, routing.DEFAULT_PARTITIONS)
    return amqp_url


@pytest.fixture(scope="session")
def template_url() -> Iterator[URL]:
    """A database with the schema and nothing in it, beside whatever the server has."""
    with find_database() as database, ExitStack() as stack:
        try:
            url = stack.enter_context(new_database(make_url(database.url)))
        except DBAPIError as error:
            raise SandboxError(
                f"the database cannot be used: {first_line(error)}; look after it, or unset"
                f" {environment.DATABASE_URL}"
            ) from error
        engine = open_engine(url.render_as_string(hide_password=False))
        bring_forward(engine)
        with unchanging_layout(engine, routing.DEFAULT_PARTITIONS):
            pass  # is said
        engine.dispose()
        yield url


@pytest.fixture
def database_url(template_url: URL) -> Iterator[str]:
    """A fresh database, as it is after `mirror-consumer init`."""
    with new_database(template_url, template=template_url.database) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def berlin_engine(database_url: str) -> Iterator[Engine]:
    """Connections whose session is in a zone that has daylight saving time."""
    engine = open_engine(f"{database_url}?options=-c%20timezone%3DEurope/Berlin")
    yield engine
    engine.dispose()


@pytest.fixture
def shell(topology: str, database_url: str, tmp_path: Path) -> Shell:
    """Where the commands find both servers, set up, and a spool of their own."""
    return Shell(
        {
            environment.AMQP_URL: topology,
            environment.DATABASE_URL: database_url,
            environment.SPOOL: str(tmp_path / "spool.db"),
        }
    )
