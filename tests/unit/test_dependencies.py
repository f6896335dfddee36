"""What pyproject.toml asks for, and what the tests are run with."""

import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mirrorfeed.extras import MODULES
from tests.pins import pinned

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    extra: [Requirement(line) for line in lines]
    for extra, lines in PROJECT["optional-dependencies"].items()
    if extra != "dev"
}
NEEDED = [Requirement(line) for line in PROJECT["dependencies"]]
NEEDED += [each for requirements in EXTRAS.values() for each in requirements]


def test_the_lowest_versions_are_those_that_are_tested() -> None:
    """`make test-lowest` installs for each dependency just what its lower bound says."""
    lowest = {
        canonicalize_name(each.name): bound.version
        for each in NEEDED
        for bound in each.specifier
        if bound.operator == ">="
    }
    assert lowest == pinned("constraints-lowest.txt")
    assert len(lowest) == len({canonicalize_name(each.name) for each in NEEDED})


@pytest.mark.parametrize("needed", NEEDED, ids=lambda each: each.name)
def test_the_pinned_version_is_one_that_is_asked_for(needed: Requirement) -> None:
    """Else nothing could be installed with constraints.txt."""
    assert needed.specifier.contains(pinned("constraints.txt")[canonicalize_name(needed.name)])


@pytest.mark.parametrize("extra", MODULES)
def test_what_an_extra_brings_is_known_by_the_names_that_are_imported(extra: str) -> None:
    """So that a command can tell when it is missing."""
    distributions = {canonicalize_name(each.name) for each in EXTRAS[extra]}
    modules = {
        module
        for module, sources in packages_distributions().items()
        if module.isidentifier() and distributions & {canonicalize_name(name) for name in sources}
    }
    assert modules == MODULES[extra]
