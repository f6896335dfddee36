"""Each module of ours has one name: `mirrorfeed.…`, wherever it is imported or spoken of."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = tuple(link.name for link in (ROOT / "mirrorfeed").iterdir() if link.is_dir())
KINDS = {".cron", ".md", ".py", ".service", ".sh", ".toml", ".yaml", ".yml"}
NAMES = {"Dockerfile", "Makefile", "run"}
EXCEPT = {Path(__file__), ROOT / "tests" / "acceptance" / "test_install.py"}
"""Here such imports are data: the second writes an application with modules of its own."""

SHORT = re.compile(
    rf"^[ \t>.]*(?:from (?:{'|'.join(ROOMS)})[\w.]* import|import (?:{'|'.join(ROOMS)})\b)"
    rf"|import_module\(\W*(?:{'|'.join(ROOMS)})\b|-m (?:{'|'.join(ROOMS)})\b"
    rf"|\b(?:patch|setattr)\([\"'](?:{'|'.join(ROOMS)})\.",
    re.MULTILINE,
)
"""A module of ours by the name of its folder, which is importable where the repository is."""


def files() -> Iterator[Path]:
    for path in ROOT.rglob("*"):
        folders = path.relative_to(ROOT).parts[:-1]
        is_of_ours = not any(part.startswith(".") and part != ".ci" for part in folders)
        if is_of_ours and (path.suffix in KINDS or path.name in NAMES) and path not in EXCEPT:
            yield path


def test_nothing_is_imported_by_a_folders_name() -> None:
    """Else a module could be there twice, with two of each class and of each variable."""
    read = list(files())
    assert {ROOT / "README.md", ROOT / "Makefile", ROOT / "publisher" / "cli.py"} <= set(read)
    found = [
        f"{path.relative_to(ROOT)}: {match[0].strip()}"
        for path in read
        for match in SHORT.finditer(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "from consumer import Branch",
        "    from publisher.client import BranchStatusClient",
        ">>> import contract.wire",
        "import amqp",
        "python -m publisher.cli",
        'monkeypatch.setattr("publisher.client.datetime", clock)',
    ],
)
def test_each_way_to_import_is_looked_for(text: str) -> None:
    """In code, in documents and in commands."""
    assert SHORT.search(text)


@pytest.mark.parametrize(
    "text", ["from mirrorfeed.consumer import Branch", "from publisher to broker", "-m mirrorfeed"]
)
def test_nothing_else_is_taken_for_one(text: str) -> None:
    """Neither our own names nor prose."""
    assert not SHORT.search(text)
