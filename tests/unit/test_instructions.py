"""What the benchmarks say of instruction counts, and that each part does what it counts."""

from typing import cast

import pytest

from benchmarks.counted import PARTS
from benchmarks.harness import Row, Rows, measure
from benchmarks.instructions import SUBJECT, complaints, rows_of
from benchmarks.stand import Stand

KNOWN = {"decode": 1000, "apply": 2000}


def counted(counts: dict[str, int], known: dict[str, int]) -> list[Row]:
    @measure("instructions", rounds=1)
    def instructions(stand: Stand) -> Rows:
        yield {SUBJECT: rows_of(counts, known)}

    return instructions.run(cast(Stand, None))


@pytest.mark.parametrize("count", [951, 1000, 1049])
def test_a_count_as_recorded_is_no_complaint(count: int) -> None:
    """Up to five percent of difference is accepted."""
    assert complaints(counted({"decode": count, "apply": 2000}, KNOWN)) == []


@pytest.mark.parametrize("count", [949, 1051])
def test_any_other_count_is_named_with_the_remedy(count: int) -> None:
    """A lower count too, or else a later rise back to the old one would go unseen."""
    assert complaints(counted({"decode": count, "apply": 2000}, KNOWN)) == [
        f"decode takes {count:,} instructions an event, recorded are 1,000:"
        " if that is meant, python -m benchmarks.instructions --record"
    ]


def test_a_count_without_a_record_is_only_shown() -> None:
    """This is so on another version of Python."""
    rows = counted({"decode": 5}, {})
    assert complaints(rows) == []
    assert [(row.what, row.median) for row in rows] == [("decode", 5)]


@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs(part: str) -> None:
    """Each is run with at least as many events as are counted."""
    PARTS[part](1000)
