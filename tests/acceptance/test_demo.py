"""`python -m demo`, as a newcomer runs it: on the session's servers, as a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from sqlalchemy.engine import URL

from demo.servers import in_database, on_broker
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.contract import environment
from tests.servers import new_database, rows, wait_for, wait_for_rows

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 120
USAGE = 2


@pytest.fixture
def empty_url(template_url: URL) -> Iterator[str]:
    """A database as it is before `mirror-consumer init`."""
    with new_database(template_url) as url:
        yield url.render_as_string(hide_password=False)


def start_demo(
    amqp_url: str, database_url: str, folder: Path, *options: str, **variables: str
) -> "subprocess.Popen[str]":
    """The demo, told apart from any other by where its temporary folder is."""
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *options],
        cwd=ROOT,
        env={
            **os.environ,
            environment.AMQP_URL: amqp_url,
            environment.DATABASE_URL: database_url,
            "TMPDIR": str(folder),
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def run_demo(
    amqp_url: str, database_url: str, folder: Path, expect: int = 0, **variables: str
) -> str:
    process = start_demo(amqp_url, database_url, folder, **variables)
    try:
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == expect, output
    return output


def assert_as_before(amqp_url: str, database_url: str, folder: Path) -> None:
    """There is no exchange, queue, table, file or service of a demo."""
    assert on_broker(amqp_url) == []
    assert list(folder.iterdir()) == []
    engine = open_engine(database_url)
    try:
        ours = "WHERE relnamespace = 'public'::regnamespace"
        assert rows(engine, f"SELECT relname FROM pg_class {ours}") == []
        # A service that still runs has a connection; one that has ended may take a moment to go.
        others = "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        wait_for_rows(engine, f"SELECT pid FROM pg_stat_activity {others}", [])
    finally:
        engine.dispose()


def table_rows(output: str) -> list[dict[str, str]]:
    """The rows of both tables, in the order in which they were shown."""
    row = re.compile(
        r"^ (?P<id>\d) +(?P<name>\S+) +(?P<state>\S+) +(?P<success>never|\d+ \w+ ago) +"
        r"(?P<revision>[0-9a-f]{12}|) +(?P<failures>\d+) *(?P<message>.*?) *$",
        re.MULTILINE,
    )
    return [match.groupdict() for match in row.finditer(output)]


def name(row: dict[str, str]) -> str:
    return row["name"]


def test_the_demo_tells_its_story_and_leaves_nothing(
    amqp_url: str, empty_url: str, tmp_path: Path
) -> None:
    """Both tables show three branches, one of them failing."""
    output = run_demo(amqp_url, empty_url, tmp_path)

    found = table_rows(output)
    # The failing one comes first; of the others, whichever was mirrored longer ago.
    rounds = (found[:3], found[3:])
    shown: list[Any] = [row for rows in rounds for row in [rows[0], *sorted(rows[1:], key=name)]]
    assert [(row["name"], row["state"], row["failures"]) for row in shown] == [
        ("~ada/lamp/main", "failing", "1"),
        ("~ada/clock/main", "mirrored", "0"),
        ("~ada/kettle/main", "mirrored", "0"),
        ("~ada/kettle/main", "failing", "1"),
        ("~ada/clock/main", "mirrored", "0"),
        ("~ada/lamp/main", "mirrored", "0"),
    ]
    lamp, clock, kettle, kettle_later, clock_later, lamp_later = shown
    missing = r"not-found: fatal: '/.*/upstream/{}' does not appear to be a git repository"
    assert re.fullmatch(missing.format("lamp"), lamp["message"])
    assert re.fullmatch(missing.format("kettle"), kettle_later["message"])
    assert clock_later["revision"] != clock["revision"]
    assert kettle_later["revision"] == kettle["revision"]
    assert (lamp["revision"], lamp["success"]) == ("", "never")
    assert lamp_later["revision"]

    assert re.search(r"^spooled +15\nconfirmed +15\npending +0$", output, re.MULTILINE)
    assert "nightly-gc ran on " in output
    assert "Both services exited with 0 on SIGTERM." in output
    assert_as_before(amqp_url, empty_url, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_nothing(
    amqp_url: str, empty_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    """Services, tables, queues and folder are gone, whatever it was doing."""
    process = start_demo(amqp_url, empty_url, tmp_path)
    try:
        assert process.stdout is not None
        assert any(line.startswith("Round 1") for line in process.stdout)
        process.send_signal(number)
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + number, output
    assert_as_before(amqp_url, empty_url, tmp_path)


def test_a_demo_that_is_kept_shows_a_page_of_what_it_mirrors(
    amqp_url: str, empty_url: str, tmp_path: Path
) -> None:
    """It prints the address, and leaves nothing when it is stopped."""
    process = start_demo(amqp_url, empty_url, tmp_path, "--keep")
    try:
        assert process.stdout is not None
        addresses = (re.search(r"page is at (http://\S+/),", line) for line in process.stdout)
        address = next(filter(None, addresses))[1]

        def is_mirrored() -> bool:
            try:
                with urlopen(f"{address}branches/1.json") as answer:
                    return bool(json.load(answer)["branch"]["state"] == "mirrored")
            except URLError:  # it does not listen yet
                return False

        wait_for(is_mirrored, "a branch that was mirrored")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + signal.SIGINT, output
    assert_as_before(amqp_url, empty_url, tmp_path)


def test_a_database_in_use_is_refused(amqp_url: str, database_url: str, tmp_path: Path) -> None:
    """Other people's branches are neither mixed with the demo's nor removed with them."""
    tables = in_database(database_url)
    output = run_demo(amqp_url, database_url, tmp_path, expect=USAGE)
    assert "table branch" in output
    assert f"unset {environment.DATABASE_URL}" in output
    assert in_database(database_url) == tables
    assert on_broker(amqp_url) == []


def test_a_broker_in_use_is_refused(topology: str, empty_url: str, tmp_path: Path) -> None:
    """Other people's events are neither applied by the demo nor removed with its queues."""
    names = on_broker(topology)
    output = run_demo(topology, empty_url, tmp_path, expect=USAGE)
    assert "exchange mirror.events" in output
    assert f"unset {environment.AMQP_URL}" in output
    assert on_broker(topology) == names
    assert in_database(empty_url) == []


def test_a_missing_git_is_named_with_its_remedy(tmp_path: Path) -> None:
    """This happens before any server is looked for."""
    output = run_demo("amqp://127.0.0.1:1", "postgresql://127.0.0.1:1/x", tmp_path, USAGE, PATH="")
    assert output == "demo: git is not installed: install it (apt-get install git)\n"
