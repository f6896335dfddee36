"""The Dockerfile, by reading it: what is in the image of mirrorfeed."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.pins import pinned

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
PINNED = pinned("constraints.txt")
HASHED = {
    "packaging/requirements.txt": {"mirrorfeed[authserver,consumer,web]"},
    "packaging/requirements-build.txt": {"hatchling"},
}
"""Files of what is installed, with hashes; and what they are there for."""
PYTHON = {"python_version": "3.13", "python_full_version": "3.13.0"}
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
    assert copied(LINES[:installed]) == set(HASHED)
    (ours,) = (line for line in LINES[installed + 1 :] if "install" in line and "pip" in line)
    assert "--no-deps" in ours
    assert "--no-build-isolation" in ours


@pytest.mark.skipif(
    version("SQLAlchemy") != PINNED["sqlalchemy"], reason="other versions are installed here"
)
@pytest.mark.parametrize(("file", "wanted"), HASHED.items())
def test_all_that_is_installed_has_hashes(file: str, wanted: set[str]) -> None:
    """Of the versions that everything is tested with, no more and no less; if not: make hashes."""
    entries = re.sub(r"#.*|\\\n", "", (ROOT / file).read_text()).splitlines()
    versions = {}
    for entry in filter(None, entries):
        pin, *hashes = entry.split()
        name, versions[name] = pin.split("==")
        assert hashes, name
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", each) for each in hashes)
    needed = {canonicalize_name(name) for name in all_needed(wanted)} - {PROJECT["name"]}
    assert versions == {name: PINNED[name] for name in needed}
    (line,) = (line for line in LINES if file in line and line.startswith("RUN "))
    assert line.count("--require-hashes") == line.count("--requirement ")


def all_needed(names: Iterable[str]) -> set[str]:
    """What these need, and what that needs, by what is installed here."""
    found: set[str] = set()
    todo = [Requirement(name) for name in names]
    while todo:
        wanted = todo.pop()
        found.add(wanted.name)
        for needed in map(Requirement, requires(wanted.name) or ()):
            is_needed = needed.marker is None or any(
                needed.marker.evaluate({**PYTHON, "extra": extra}) for extra in {"", *wanted.extras}
            )
            if is_needed and needed.name not in found:
                todo.append(needed)
    return found


def test_the_base_is_pinned_to_the_patch() -> None:
    """All stages have the same one: an environment of Python works only with its own."""
    (python,) = (line for line in LINES if line.startswith("ARG PYTHON="))
    assert re.fullmatch(r"ARG PYTHON=python:3\.\d+\.\d+-slim-\w+", python)
    bases = [line.split()[1] for line in LINES if line.startswith("FROM ")]
    assert bases == ["${PYTHON}", "${PYTHON}", "mirrorfeed", "mirrorfeed"]


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
    """A number, as Kubernetes cannot tell who a name is. Nor does the one with git."""
    users = [line for line in LINES if line.startswith("USER ")]
    assert users == ["USER 10001", "USER root", "USER 10001"]
    target = LINES.index("FROM mirrorfeed AS puller")
    assert LINES[target:].index("USER root") < LINES[target:].index("USER 10001")


def test_only_the_image_of_pullers_has_git() -> None:
    """The last stage, which is built if nobody names one, adds nothing to what all have."""
    assert [line for line in LINES if "install --yes" in line and "git" in line]
    assert LINES[-1] == "FROM mirrorfeed"
