"""CHANGELOG.md, in the form of Keep a Changelog."""

import re
from datetime import date

from release.errors import ReleaseError

KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
_HEADING = re.compile(r"\[(?P<version>[^\]]+)\](?: - (?P<date>\d{4}-\d{2}-\d{2}))?")


def entries(text: str) -> dict[str, str]:
    """What each version brought, the newest first; "Unreleased" has no date and may come first.

    Raises ReleaseError if the text has another form.
    """
    _, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    found = {}
    for number, section in enumerate(sections):
        heading, _, body = section.partition("\n")
        match = _HEADING.fullmatch(heading)
        if match is None:
            raise ReleaseError(f"CHANGELOG.md: not a version and its date: {heading}")
        version = match["version"]
        if (match["date"] is None) != (version == "Unreleased" and number == 0):
            raise ReleaseError(f"CHANGELOG.md: all but a first [Unreleased] have a date: {heading}")
        if match["date"] is not None:
            _check_date(match["date"])
        _check_kinds(version, body)
        found[version] = body.strip()
    return found


def _check_date(text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise ReleaseError(f"CHANGELOG.md: no such day: {text}") from error


def _check_kinds(version: str, body: str) -> None:
    before, *kinds = re.split(r"^### ", body, flags=re.MULTILINE)
    if before.strip():
        raise ReleaseError(f"CHANGELOG.md, [{version}]: each change belongs below Added, Fixed, …")
    for kind in kinds:
        name, _, changes = kind.partition("\n")
        if name not in KINDS:
            raise ReleaseError(f"CHANGELOG.md, [{version}]: {name} is none of {', '.join(KINDS)}")
        for line in filter(None, changes.splitlines()):
            if not line.startswith(("- ", "  ")):
                raise ReleaseError(f"CHANGELOG.md, [{version}]: not part of a list: {line}")
