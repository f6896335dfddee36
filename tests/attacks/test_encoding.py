"""What a setting of somebody else's can do to the worker's words: nothing."""

import json
import os

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL

from mirrorfeed.contract import environment
from tests.builders import failed
from tests.commands import Shell
from tests.servers import new_database, publish_events, register_branches, rows

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


def test_a_database_that_cannot_hold_every_text_is_refused(template_url: URL) -> None:
    """`init` says so and what to do, before it creates anything."""
    with new_database(
        template_url, template="template0", options="ENCODING LATIN1 LOCALE 'C'"
    ) as url:
        shell = Shell({environment.DATABASE_URL: url.render_as_string(hide_password=False)})
        for option in ((), ("--check",), ("--sql",)):
            said = shell.run("mirror-consumer", "init", *option, expect=2).stderr
            assert "has the encoding LATIN1" in said
            assert "createdb --encoding UTF8 --template template0" in said


def test_a_refusal_in_another_encoding_is_waited_out(
    shell: Shell, template_url: URL, topology: str
) -> None:
    """Until it knows which encoding a client wants, the server answers in the bytes it has: here
    those of a user name. A command exits with 3, and a worker tries again."""
    url = template_url._replace(username=None, password=None).render_as_string()
    in_latin_1 = os.fsdecode("jörg".encode("latin-1"))
    shell = Shell({**shell.variables, environment.DATABASE_URL: url, "PGUSER": in_latin_1})
    refused = shell.run("mirror-consumer", "status", expect=3).stderr
    assert "j\N{REPLACEMENT CHARACTER}rg" in refused
    with shell.running("mirror-consumer", "run") as worker:
        assert worker.stderr is not None
        log = worker.stderr.readline()
        assert "a server is away; trying again" in log
        assert r"j\ufffdrg" in log
        assert worker.poll() is None
