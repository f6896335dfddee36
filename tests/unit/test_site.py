"""The documents as a site: `make site` checks every link; here is what it cannot."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MADE = {"index.md", *(f"reference/{name}.md" for name in ("commands", "variables", "exit-codes"))}
MADE |= {"reference/tables.md", "reference/events.md"}
"""By packaging/site.py."""


def listed(nav: Any) -> Iterator[str]:
    for each in nav:
        for value in each.values():
            if isinstance(value, str):
                yield value
            else:
                yield from listed(value)


def test_every_document_is_listed_once() -> None:
    """In one of the four groups; decisions are listed by themselves."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    documents = {
        path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if path.parent.name != "decisions"
    }
    assert sorted(listed(nav)) == sorted(documents | MADE)
