"""How many tests passed, failed and were skipped, from what pytest prints."""

import re
from dataclasses import dataclass

_SUMMARY = re.compile(r"^(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in \d[\d.]*s.*$", re.MULTILINE)
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Counts:
    """Of one or more runs of pytest."""

    passed: int
    failed: int
    """With those that could not begin."""
    skipped: int
    """With those that are expected to fail."""


def counted(said: str) -> Counts:
    """The sum over all runs; zeros if there was none."""
    found = dict.fromkeys(("passed", "failed", "error", "skipped", "xfailed"), 0)
    for summary in _SUMMARY.findall(said):
        for number, word in re.findall(r"(\d+) ([a-z]+)", summary):
            kind = "error" if word == "errors" else word
            if kind in found:
                found[kind] += int(number)
    return Counts(
        found["passed"], found["failed"] + found["error"], found["skipped"] + found["xfailed"]
    )


def names_of_failed(said: str) -> list[str]:
    """The tests that pytest names in the end."""
    return list(dict.fromkeys(_FAILED.findall(said)))
