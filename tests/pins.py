"""The versions that everything here is installed with."""

from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def pinned(file: str) -> dict[str, str]:
    """The version of each distribution, as a file of constraints has it."""
    pairs = [line.split("==") for line in (ROOT / file).read_text().splitlines()]
    return {canonicalize_name(name): version for name, version in pairs}
