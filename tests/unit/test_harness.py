"""What carries the benchmarks: turns, medians, ratios and targets."""

from collections.abc import Iterator
from typing import cast

import pytest

from benchmarks.harness import (
    Row,
    Rows,
    Target,
    at_least,
    at_most,
    beside,
    in_turns,
    lines_of,
    measure,
    quantile,
)
from benchmarks.stand import Stand


def measured(*rows: Row, rounds: int) -> list[Row]:
    @measure("test", rounds=rounds)
    def test(stand: Stand) -> Rows:
        yield {"subject": rows}

    return test.run(cast(Stand, None))


def values(*given: float) -> Iterator[float]:
    yield from given


def row(value: float, *targets: Target) -> Row:
    return Row(f"{value:g}", "s", lambda: value, *targets)


@pytest.mark.parametrize(
    ("back_and_forth", "order"), [(False, "ABCABC"), (True, "ABCCBA")], ids=["again", "back"]
)
def test_what_is_compared_takes_turns(back_and_forth: bool, order: str) -> None:
    """In each round all have one turn, in the same order or every second time backwards."""
    ran: list[str] = []
    runs = {name: lambda name=name: ran.append(name) for name in "ABC"}
    in_turns(2, runs, back_and_forth=back_and_forth)
    assert "".join(ran) == order


def test_a_row_has_a_value_a_round_and_their_median() -> None:
    """Whatever their order."""
    (only,) = measured(Row("only", "s", values(3, 1, 2).__next__), rounds=3)
    assert (only.values, only.median) == ([3, 1, 2], 2)


def test_rows_that_share_a_run_share_its_rounds() -> None:
    """It runs once a round, and gives each row the value under the row's name."""
    ran: list[str] = []

    def run() -> dict[str, float | list[float]]:
        ran.append("run")
        return {"rate": 5.0, "tenths": [1.0, 2.0]}

    rate, tenths = measured(Row("rate", "s", run), Row("tenths", "s", run), rounds=2)
    assert (ran, rate.values, tenths.values) == (["run"] * 2, [5, 5], [1, 2, 1, 2])


@pytest.mark.parametrize(
    ("target", "is_met"),
    [
        (at_least(2, row(2)), True),
        (at_least(2.1, row(2)), False),
        (at_most(2, row(2)), True),
        (at_most(1.9, row(2)), False),
        (at_least(4), True),
        (at_most(3.9), False),
    ],
)
def test_a_target_is_met_or_missed(target: Target, is_met: bool) -> None:
    """By the ratio if it names another row, else by the median."""
    other = [target.of] if target.of else []
    *_, four = measured(*other, row(4, target), rounds=1)
    assert four.is_met(target) is is_met


def test_a_line_is_shown_for_each_row_that_one_is_compared_with() -> None:
    """Targets of the median stand in the first; a row without a target is only compared."""
    one, two = row(1), row(2)
    rows = measured(one, two, row(4, at_least(9, one), at_most(5), beside(two)), rounds=1)
    assert list(lines_of(rows)) == [
        ["subject", "", "", "", "", "", "", ""],
        ["  1", "s", "1", "1", "1", "", "", ""],
        ["  2", "s", "2", "2", "2", "", "", ""],
        ["  4", "s", "4", "4", "4", "4", "1", "ratio ≥ 9 missed, s ≤ 5 met"],
        ["  4", "s", "4", "4", "4", "2", "2", ""],
    ]


def test_what_follows_the_rows_sees_their_values() -> None:
    """So that a measure can check, or write them down."""
    seen: list[float] = []

    @measure("test", rounds=1)
    def test(stand: Stand) -> Rows:
        rows = [row(7)]
        yield {"subject": rows}
        seen.extend(rows[0].values)

    test.run(cast(Stand, None))
    assert seen == [7]


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (99, 4), (100, 4), (25, 1)])
def test_a_quantile_is_the_nearest_rank(percent: int, value: float) -> None:
    """The smallest of the values that so many of them do not exceed."""
    assert quantile([4, 1, 3, 2], percent) == value
