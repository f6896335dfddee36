"""`docs/branch-status.md` comes true, line by line."""

import doctest
import os
import re
import shlex
from pathlib import Path

import pytest

from mirrorfeed.contract import environment
from tests.commands import SCRIPTS, Shell

DOCUMENT = Path(__file__).parents[2] / "docs/branch-status.md"


def test_the_document_comes_true(
    amqp_url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pasting it from the top gives what it shows."""
    variables = {
        environment.AMQP_URL: amqp_url,
        environment.DATABASE_URL: database_url,
        environment.SPOOL: str(tmp_path / "spool.db"),
        "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for line in re.findall(r"^mirror-.*", DOCUMENT.read_text(), re.MULTILINE):
        Shell({}).run(*shlex.split(line))
    result = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert result.attempted > 40
    assert result.failed == 0
