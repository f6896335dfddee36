"""What a setting of somebody else's can do to the worker's words: nothing."""

import json

import pytest
from sqlalchemy import Engine, text

from tests.builders import failed
from tests.commands import Shell
from tests.servers import publish_events, register_branches, rows

REASON = "日本 \N{PILE OF POO}"


@pytest.mark.parametrize("setting", ["environment", "database"])
def test_every_reason_is_applied_whatever_the_client_encoding(
    shell: Shell, engine: Engine, topology: str, setting: str
) -> None:
    """Neither PGCLIENTENCODING nor the database's own default keeps a worker from starting."""
    register_branches(engine, 1)
    if setting == "environment":
        shell = Shell({**shell.variables, "PGCLIENTENCODING": "LATIN1"})
    else:
        with engine.begin() as connection:
            name = connection.scalar(text("SELECT quote_ident(current_database())"))
            connection.execute(text(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'"))
    publish_events(topology, failed(1, 0, REASON))
    shell.run("mirror-consumer", "run", "--drain")
    assert rows(engine, "SELECT mirror_status_message FROM branch") == [(REASON,)]
    (shown,) = json.loads(shell.run("mirror-consumer", "status", "1", "--json").stdout)["branches"]
    assert shown["mirror_status_message"] == REASON
