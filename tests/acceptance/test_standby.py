"""Commands that only read do so on any database that can be read."""

import re
from collections.abc import Iterator

import pytest

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.migrations import bring_forward
from mirrorfeed.consumer.partitions.layout import unchanging_layout
from mirrorfeed.contract import environment
from sandbox import PrivatePostgreSQL
from tests.builders import failed, messages, started
from tests.commands import Shell
from tests.pages import opened
from tests.servers import register_branches

READING = [
    "mirror-consumer status --json",
    "mirror-consumer status 1",
    "mirror-consumer history 1",
    "mirror-consumer scripts",
    "mirror-consumer audit",
    "mirror-consumer audit decisions",
    "mirror-consumer sources",
    "mirror-consumer branches list",
    "mirror-consumer branches show 1",
    "mirror-consumer topology",
    "mirror-replay list",
    "mirror-replay list --group",
    "mirror-replay show 1",
    "mirror-replay export --all",
]
WRITING = ["mirror-consumer rebuild", "mirror-replay apply --all", "mirror-consumer health"]


@pytest.fixture(scope="module")
def standby_url() -> Iterator[str]:
    """A server that was filled as a primary, and is a hot standby now."""
    with PrivatePostgreSQL() as server:
        engine = open_engine(server.url)
        bring_forward(engine)
        with unchanging_layout(engine, 4):
            pass  # is said
        register_branches(engine, 1)
        Applier(engine).apply(messages(failed(1, 0, "why"), started(2, 0)))
        engine.dispose()
        server.terminate()
        assert server.folder is not None
        (server.folder.path / "data" / "standby.signal").touch()
        server.start()
        yield server.url


@pytest.fixture
def shell(standby_url: str, topology: str) -> Shell:
    return Shell({environment.AMQP_URL: topology, environment.DATABASE_URL: standby_url})


@pytest.mark.parametrize("command", READING)
def test_a_command_that_only_reads_reads_from_a_standby(shell: Shell, command: str) -> None:
    """It says how old what it shows may be, and not among what it shows."""
    done = shell.run(*command.split())
    assert done.stdout
    assert re.match("from a standby, whose latest change is [0-9,]+ s old\n", done.stderr)


def test_the_page_shows_a_standby(standby_url: str, topology: str) -> None:
    """It only reads, too."""
    with opened(standby_url, topology) as site:
        assert "b1" in site.html("/branches/1")
        assert site.document("/now.json")["branches"]["failing"] == 1


@pytest.mark.parametrize("command", WRITING)
def test_a_command_that_writes_refuses_a_standby(shell: Shell, command: str) -> None:
    """Nothing could be put right there."""
    done = shell.run(*command.split(), expect=3)
    assert "read-only, perhaps a standby" in done.stderr


@pytest.mark.parametrize("command", ["mirror-consumer status", "mirror-consumer audit"])
def test_a_role_that_may_only_read_reads(database_url: str, command: str) -> None:
    """Even if its transactions are read-only by default."""
    read_only = f"{database_url}?options=-c%20default_transaction_read_only%3Don"
    Shell({environment.DATABASE_URL: read_only}).run(*command.split())
