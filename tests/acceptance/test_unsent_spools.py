"""A spool that nobody sends does not go unnoticed."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from mirrorfeed.contract import environment
from tests.commands import Shell
from tests.servers import wait_for

TWO_DAYS_SECONDS = 2 * 86_400
NO_BROKER = "amqp://127.0.0.1:1"


def shell_of(folder: Path) -> Shell:
    return Shell({environment.SPOOL: str(folder / "spool.db")})


def let_wait(folder: Path, seconds: float) -> None:
    """As if all events had been spooled so much earlier."""
    with closing(sqlite3.connect(folder / "spool.db")) as connection:
        connection.execute("UPDATE event SET spooled_at = spooled_at - ?", (seconds,))
        connection.commit()


def warning(shell: Shell) -> str:
    return shell.run("mirror-publisher", "failed", "1", "why").stderr


def status_of(shell: Shell) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(shell.run("mirror-publisher", "status", "--json").stdout)
    return status


def test_who_reports_into_a_spool_that_nobody_sends_is_told_once_a_day(tmp_path: Path) -> None:
    """Once events have waited for a day; the report is taken all the same."""
    shell = shell_of(tmp_path)
    assert warning(shell) == warning(shell) == ""
    let_wait(tmp_path, TWO_DAYS_SECONDS)
    told = warning(shell)
    spool = tmp_path / "spool.db"
    assert f"nobody sends the spool {spool}: 2 events wait, the first for 2 days" in told
    assert warning(shell) == ""
    assert status_of(shell)["pending"] == 4


def test_a_broker_that_is_away_is_no_reason_to_warn(tmp_path: Path) -> None:
    """A forwarder runs, and will send what waits."""
    shell = shell_of(tmp_path)
    warning(shell)
    let_wait(tmp_path, TWO_DAYS_SECONDS)
    with shell.running("mirror-publisher", "forward", "--amqp-url", NO_BROKER) as process:
        wait_for(lambda: status_of(shell)["forwarder_pid"] == process.pid, "the forwarder")
        assert status_of(shell)["is_forwarded"]
        assert warning(shell) == ""
    assert not status_of(shell)["is_forwarded"]


def test_the_status_says_where_a_spool_is_and_when_it_was_last_sent(shell: Shell) -> None:
    """For every spool in the usual places, if asked."""
    warning(shell)
    status = status_of(shell)
    assert status["path"] == shell.variables[environment.SPOOL]
    assert status["last_confirmed_at"] is None
    assert 0 < status["size_bytes"] < status["limit_bytes"]
    shell.run("mirror-publisher", "forward", "--drain")
    assert status_of(shell)["last_confirmed_at"].endswith("Z")
    everywhere = json.loads(shell.run("mirror-publisher", "status", "--all", "--json").stdout)
    assert status["path"] in [each["path"] for each in everywhere["spools"]]
