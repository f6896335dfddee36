"""What a puller sends, or somebody types, never controls the terminal on which it is shown."""

import json
import re
import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.contract import environment
from mirrorfeed.contract.events import Envelope, MirrorStarted
from tests.builders import at, completed, failed, script_run, started
from tests.commands import Shell
from tests.servers import publish, publish_events, register_branches
from tests.terminal import terminal

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b2J\u202e\u2066\x7f\x08\x0c\u2028\x85\r\n"
"""Clears the screen, names the window, and turns the writing direction."""


def controls(written: str) -> set[str]:
    """The characters that do something to a terminal, except line ends."""
    return {each for each in re.sub(r"\r?\n", "", written) if not each.isprintable()}


@pytest.fixture
def attacked(shell: Shell, engine: Engine, topology: str) -> Shell:
    """Branches, letters, script runs and a spool with hostile text wherever text can be."""
    register_branches(engine, 1, 2)
    with engine.begin() as connection:
        connection.execute(text("UPDATE branch SET unique_name = id || :text"), {"text": HOSTILE})
    publish_events(
        topology,
        Envelope("1", f"/pullers/{HOSTILE}", at(0), MirrorStarted(2, at(0)), sequence=7),
        completed(2, 0, f"{HOSTILE}rev"),
        failed(1, 0, f"why {HOSTILE} not"),
        script_run(f"gc{HOSTILE}", 0, 1, hostname=f"vostok{HOSTILE}"),
        started(404, 0),
    )
    unknown = {"specversion": "1.0", "id": HOSTILE, "source": HOSTILE, "type": HOSTILE}
    publish(topology, json.dumps(unknown).encode(), headers={"x": HOSTILE, HOSTILE: "y"})
    publish(topology, f"{HOSTILE}{{".encode())
    shell.run("mirror-consumer", "run", "--drain")
    shell.run("mirror-publisher", "started", "1")
    with closing(sqlite3.connect(shell.variables[environment.SPOOL])) as spool, spool:
        spool.execute("UPDATE source SET uri = ?", (f"/pullers/{HOSTILE}/x",))
    return shell


def test_no_command_shows_what_controls_a_terminal(attacked: Shell) -> None:
    """Whatever it prints, and wherever the text comes from."""
    for command in (
        ("mirror-publisher", "status"),
        ("mirror-consumer", "status"),
        ("mirror-consumer", "status", "1"),
        ("mirror-consumer", "history", "2"),
        ("mirror-consumer", "scripts"),
        ("mirror-replay", "list"),
        ("mirror-replay", "show", "1"),
        ("mirror-replay", "show", "2"),
        ("mirror-replay", "show", "3"),
        ("mirror-replay", "export"),
    ):
        with terminal(attacked, *command, columns=80) as shown:
            assert shown.end() == 0, shown.written
        assert controls(shown.written) == set(), command
    audit = attacked.run("mirror-consumer", "audit", expect=1)
    assert "/pullers/�" in audit.stdout
    assert controls(audit.stdout + audit.stderr) == set()


def test_exported_letters_are_ascii_and_whole(attacked: Shell) -> None:
    """What a terminal must not see is escaped, so that a file loses nothing."""
    lines = attacked.run("mirror-replay", "export").stdout
    assert lines.isascii()
    letters = [json.loads(line) for line in lines.splitlines()]
    assert HOSTILE in [letter.get("type") for letter in letters]
    assert {HOSTILE: "y", "x": HOSTILE} in [letter.get("headers") for letter in letters]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mistyped_command_cannot_control_the_terminal(shell: Shell, script: str) -> None:
    """Every console script prints through the same place."""
    result = shell.run(script, HOSTILE, expect=2)
    assert controls(result.stdout + result.stderr) == set()


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        (("mirror-consumer", "scripts", HOSTILE), 1),
        (("mirror-consumer", "status", "--database-url", f"postgresql:///{HOSTILE}"), 3),
        (("mirror-publisher", "started", "1", "--spool", f"/dev/null/{HOSTILE}"), 2),
        (("mirror-publisher", "script-run", "x", "--started", HOSTILE, "--completed", "x"), 2),
    ],
    ids=["name", "database", "spool", "time"],
)
def test_an_error_cannot_forge_another_one(
    shell: Shell, command: tuple[str, ...], exit_code: int
) -> None:
    """What follows a line break is indented."""
    said = shell.run(*command, expect=exit_code).stderr
    assert controls(said) == set()
    first, *others = said.splitlines()
    assert first.startswith(f"{command[0]}: ")
    assert {line[:2] for line in others} <= {"  "}
