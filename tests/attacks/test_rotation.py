"""A secret that leaked is replaced: whoever runs takes the new one without a restart."""

import re
import xmlrpc.client
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from sqlalchemy import Engine

from mirrorfeed.contract import environment
from mirrorfeed.publisher.spool import Spool
from tests.builders import failed
from tests.commands import Shell
from tests.servers import publish_events, register_branches, wait_for, wait_for_rows


def wrong(url: str) -> str:
    """The same server, with a password that no longer holds."""
    return re.sub(r"//(?:[^@/]*@)?", "//jane:leaked@", url, count=1)


def read_until(lines: Iterator[str], words: str) -> str:
    log = ""
    for line in lines:
        log += line
        if words in line:
            return log
    raise AssertionError(f"not said: {words}\n{log}")


def test_a_forwarder_takes_a_new_password(shell: Shell, topology: str, tmp_path: Path) -> None:
    """Even if it finds the file empty for a moment, as while somebody writes it."""
    file = tmp_path / "amqp-url"
    file.write_text(wrong(topology))
    shell = Shell(
        {
            **shell.variables,
            environment.AMQP_URL: "",
            f"{environment.AMQP_URL}_FILE": str(file),
        }
    )
    shell.run("mirror-publisher", "failed", "1", "why")
    spool = Spool(Path(shell.variables[environment.SPOOL]), appends=False)
    with shell.running("mirror-publisher", "forward") as forwarder:
        assert forwarder.stderr is not None
        read_until(forwarder.stderr, "Login was refused")
        file.write_text("")
        file.write_text(topology)
        wait_for(lambda: spool.status().pending == 0, "the event to be sent")
    spool.close()


def test_a_worker_takes_new_passwords(
    shell: Shell, topology: str, database_url: str, engine: Engine, tmp_path: Path
) -> None:
    """Those of both servers, one after the other."""
    register_branches(engine, 1)
    publish_events(topology, failed(1, 0, "why"))
    amqp_file, database_file = tmp_path / "amqp-url", tmp_path / "database-url"
    amqp_file.write_text(wrong(topology))
    database_file.write_text("")
    variables = {
        **shell.variables,
        environment.AMQP_URL: "",
        environment.DATABASE_URL: "",
        f"{environment.AMQP_URL}_FILE": str(amqp_file),
        f"{environment.DATABASE_URL}_FILE": str(database_file),
    }
    database_file.write_text("postgresql://127.0.0.1:1/nowhere")
    with Shell(variables).running("mirror-consumer", "run") as worker:
        assert worker.stderr is not None
        read_until(worker.stderr, "Connection refused")
        database_file.write_text(database_url)
        amqp_file.write_text(topology)
        wait_for_rows(engine, "SELECT mirror_failures FROM branch", [(1,)])


def test_the_authserver_takes_a_new_token(tmp_path: Path) -> None:
    """At once, and the old one counts no more. As long as the file cannot be read, the last token
    does."""
    file = tmp_path / "token"
    file.write_text("old\n")
    shell = Shell(
        {
            environment.SPOOL: str(tmp_path / "spool.db"),
            environment.AMQP_URL: "amqp://127.0.0.1:1",
            f"{environment.AUTHSERVER_TOKEN}_FILE": str(file),
        }
    )
    with shell.running("mirror-publisher", "authserver", "--port", "0") as server:
        assert server.stderr is not None
        log = read_until(server.stderr, "authserver listens on")
        (address,) = re.findall(r"http://(\S+?)/", log)
        assert call(address, "old")
        file.write_text("new")
        assert call(address, "new")
        assert not call(address, "old")
        file.unlink()
        assert call(address, "new")
        read_until(server.stderr, "the last token it had still counts")
        file.write_text("newer")
        assert call(address, "newer")


@pytest.mark.parametrize("content", [None, ""])
def test_a_token_file_without_a_token_opens_nothing(tmp_path: Path, content: str | None) -> None:
    """The server does not start, and names the file."""
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    shell = Shell({f"{environment.AUTHSERVER_TOKEN}_FILE": str(file)})
    said = shell.run("mirror-publisher", "authserver", "--port", "0", expect=2).stderr
    assert f"{environment.AUTHSERVER_TOKEN}_FILE names {file}" in said


def call(address: str, token: str) -> bool:
    """Whether the server takes a call with this token."""
    with xmlrpc.client.ServerProxy(f"http://any:{token}@{address}/") as proxy:
        try:
            return bool(proxy.startMirroring(1))
        except xmlrpc.client.ProtocolError as error:
            if error.errcode == HTTPStatus.UNAUTHORIZED:
                return False
            raise
