"""How `make` gets its .venv, if it cannot get it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 120


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What pip is to install: a project that needs what no index has."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "constraints.txt", folder)
    (folder / "pyproject.toml").write_text('[build-system]\nrequires = ["no-such-build-backend"]\n')
    return folder


def make_venv(
    folder: Path, python: str = sys.executable, wrapper: tuple[str, ...] = (), **variables: str
) -> str:
    """What it says on standard error when it fails."""
    result = subprocess.run(
        [*wrapper, "sh", str(ROOT / "sandbox" / "make-venv.sh")],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHON": python, "PIP_CONFIG_FILE": "/dev/null"}
        | variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    return result.stderr


def test_an_index_that_does_not_resolve_is_told_in_one_line(project: Path) -> None:
    """With what pip met, and what to look at; what is fetched was said before."""
    said = make_venv(project, PIP_INDEX_URL="https://index.invalid/simple", PIP_RETRIES="1")
    announced, failed = said.splitlines()
    assert announced == "making .venv (pip, 65 MB to fetch, 270 MB on the disk) ..."
    assert failed.startswith("pip cannot install what mirrorfeed needs (")
    assert "index.invalid" in failed or "Name or service not known" in failed
    assert failed.endswith("see that a package index is reachable (pip config list)")


def test_a_python_that_is_too_old_is_told_in_one_line(project: Path) -> None:
    """With how to name another."""
    old = project / "python"
    old.write_text('#!/bin/sh\n[ "$1" != --version ] || { echo Python 3.9.2; exit; }\nexit 1\n')
    old.chmod(0o755)
    said = make_venv(project, python=str(old))
    assert said == (
        "Python 3.11 or later is needed, and this is Python 3.9.2: name another: make PYTHON=...\n"
    )


def test_a_full_disk_is_told_in_one_line(project: Path, small_disk: Path) -> None:
    """Before anything is fetched."""
    shutil.copytree(project, small_disk / "project")
    said = make_venv(small_disk / "project")
    assert said.endswith(" MB left, and .venv needs 350 MB: make room\n")
    assert len(said.splitlines()) == 1
