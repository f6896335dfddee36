"""Whatever becomes of standard output: no traceback, and an exit code that is documented."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.contract.events import Envelope, MirrorStarted
from tests.builders import at, failed, messages
from tests.commands import TIMEOUT_SECONDS, Shell
from tests.servers import register_branches, rows

FULL = "cannot write to standard output: No space left on device"
CLOSED = "cannot write to standard output: Bad file descriptor"


def redirected(shell: Shell, where: str, *command: str) -> tuple[int, str]:
    """The exit code and standard error of a command, its output redirected as in a shell."""
    result = subprocess.run(
        ["sh", "-c", f'"$@" {where}', "sh", *shell.arguments(command)],
        env=shell.environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    return result.returncode, result.stderr


def unread(shell: Shell, *command: str) -> tuple[int, str]:
    """The same, its output going to a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            shell.arguments(command),
            env=shell.environment(),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    finally:
        os.close(writer)
    return result.returncode, result.stderr


COMMANDS = [
    ("mirror-publisher", "status"),
    ("mirror-publisher", "--help"),
    ("mirror-consumer", "status"),
    ("mirror-consumer", "--version"),
    ("mirror-replay", "export"),
]


@pytest.fixture
def filled(shell: Shell, engine: Engine) -> Shell:
    """A branch that fails for a reason in another script, and a letter."""
    register_branches(engine, 1)
    Applier(engine).apply(messages(failed(1, 0, "致命的な: Zürich"), failed(404, 0, "why")))
    shell.run("mirror-publisher", "started", "1")
    return shell


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_output_that_cannot_be_written_is_said_in_one_line(
    filled: Shell, command: tuple[str, ...]
) -> None:
    """A full disk and a closed output exit with 2, a reader who has seen enough with 0."""
    assert redirected(filled, "> /dev/full", *command) == (2, f"{command[0]}: {FULL}\n")
    assert redirected(filled, ">&-", *command) == (2, f"{command[0]}: {CLOSED}\n")
    assert unread(filled, *command) == (0, "")


def test_the_answer_does_not_depend_on_who_reads_it(shell: Shell, engine: Engine) -> None:
    """A command does all of its work and exits with its own code even if nobody reads on."""
    missing = Envelope("1", "/pullers/vostok/a", at(0), MirrorStarted(404, at(0)), sequence=2)
    Applier(engine).apply(messages(missing))
    code, said = unread(shell, "mirror-consumer", "audit")
    assert (code, said) == (1, "mirror-consumer: 1 event missing\n")
    register_branches(engine, 404)
    assert unread(shell, "mirror-replay", "apply", "--all") == (0, "")
    assert rows(engine, "SELECT state FROM dead_letter") == [("replayed",)]


def test_a_command_that_prints_nothing_needs_no_output(shell: Shell) -> None:
    """Neither standard output nor standard error, and the spool is no place for either."""
    shut = ">&- 2>&-"
    assert redirected(shell, shut, "mirror-publisher", "started", "1") == (0, "")
    wrapped = ("mirror-publisher", "run", "--branch", "1", "--", "sh", "-c", "echo; echo >&2")
    redirected(shell, shut, *wrapped)
    assert redirected(shell, shut, "mirror-consumer", "--bogus") == (2, "")
    account = json.loads(shell.run("mirror-publisher", "status", "--json").stdout)
    assert account["spooled"] == 3


def test_a_log_outlives_a_full_disk(tmp_path: Path) -> None:
    """What could not be written does not keep later lines from being written."""
    program = f"""
import os, sys
from mirrorfeed.contract.printing import guard_output
guard_output()
os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
print("while it was full", file=sys.stderr)
os.dup2(os.open({str(tmp_path / "log")!r}, os.O_WRONLY | os.O_CREAT), 2)
print("when there was room", file=sys.stderr)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (tmp_path / "log").read_text().splitlines()[-1] == "when there was room"


def test_a_plugin_that_cannot_answer_is_unknown(shell: Shell) -> None:
    """2 would mean CRITICAL."""
    command = ("mirror-consumer", "check-scripts", "--nagios", "5", "vostok:gc")
    assert redirected(shell, ">&-", *command)[0] == 3


@pytest.mark.parametrize(("encoding", "replaced"), [("ascii", "?"), ("latin-1", "�")])
def test_characters_that_the_encoding_lacks_are_replaced(
    filled: Shell, encoding: str, replaced: str
) -> None:
    """All the rest is there."""
    shell = Shell({**filled.variables, "PYTHONIOENCODING": encoding})
    page = shell.run("mirror-consumer", "status", "1").stdout
    assert page.startswith("branch 1, b1\n")
    assert page.endswith(f"  ????: Z{replaced}rich\n")
