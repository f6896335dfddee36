"""The Dockerfile, by reading it: what is in the image of mirrorfeed."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def copied(lines: list[str]) -> set[str]:
    """What is copied from the repository."""
    return {
        name.strip("/")
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }


def test_the_image_gets_all_that_the_package_is_built_from() -> None:
    """That includes what `mirrorfeed/` links to."""
    let_through = {
        line.removeprefix("!").strip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert copied(LINES) == let_through
    linked = {path.readlink().name for path in (ROOT / "mirrorfeed").iterdir() if path.is_symlink()}
    assert linked | {"pyproject.toml", "packaging/package-index.md", "mirrorfeed"} <= copied(LINES)
    assert {"consumer", "publisher", "schema.sql"} <= linked


def test_dependencies_are_in_a_layer_of_their_own() -> None:
    """A change of our code must not install them again."""
    (installed,) = (number for number, line in enumerate(LINES) if "--requirement" in line)
    assert copied(LINES[:installed]) == {"constraints.txt", "pyproject.toml"}
    (ours,) = (line for line in LINES[installed + 1 :] if "install" in line and "pip" in line)
    assert "--no-deps" in ours
    assert "--no-build-isolation" in ours


def test_the_base_is_pinned_to_the_patch() -> None:
    """Both stages have the same one: an environment of Python works only with its own."""
    (python,) = (line for line in LINES if line.startswith("ARG PYTHON="))
    assert re.fullmatch(r"ARG PYTHON=python:3\.\d+\.\d+-slim-\w+", python)
    bases = [line.split()[1] for line in LINES if line.startswith("FROM ")]
    assert bases == ["${PYTHON}", "${PYTHON}"]


def test_labels_say_what_it_is() -> None:
    """With the names of the Open Container Initiative, and the version of this package."""
    (line,) = (line for line in LINES if line.startswith("LABEL "))
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', line))
    assert labels == {
        "title": PROJECT["name"],
        "description": PROJECT["description"],
        "version": PROJECT["version"],
        "revision": "${REVISION}",
    }


def test_it_does_not_run_as_root() -> None:
    """A number, as Kubernetes cannot tell who a name is."""
    assert [line for line in LINES if line.startswith("USER ")] == ["USER 10001"]
