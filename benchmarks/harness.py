"""Runs every measure: the rows that are compared take turns, and the results are shown.

A measure consists of what it does, its rows, and their targets:

    @measure("shell", rounds=3)
    def shell(stand):
        bare = Row("python -c pass", "ms", lambda: ...)
        yield {"from a shell": [bare, Row("ours", "ms", lambda: ..., at_most(2, bare))]}

The code before the `yield` sets up; the code after it checks and cleans up.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from rich.table import Table

from benchmarks.stand import Stand

Value = float | list[float]
Values = Mapping[str, Value]
Rows = Iterator[Mapping[str, Sequence["Row"]]]
"""The rows of each subject."""
K = TypeVar("K")
V = TypeVar("V")


class Target(NamedTuple):
    """A promise about a row's median, or about its ratio to another row's median."""

    bound: Literal["≥", "≤", ""]
    value: float
    of: "Row | None"


def at_least(value: float, of: "Row | None" = None) -> Target:
    return Target("≥", value, of)


def at_most(value: float, of: "Row | None" = None) -> Target:
    return Target("≤", value, of)


def beside(row: "Row") -> Target:
    """No target: the ratio is just shown."""
    return Target("", 0, row)


class Row:
    """One line of a measure. `run` returns its value, or the values of several rows by name.

    It is called once per round, however many rows share it.
    """

    def __init__(
        self, what: str, unit: str, run: Callable[[], Value | Values], *targets: Target
    ) -> None:
        self.subject, self.what, self.unit, self.run, self.targets = "", what, unit, run, targets
        self.values: list[float] = []

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def is_met(self, target: Target) -> bool:
        measured = self.median / target.of.median if target.of else self.median
        return measured <= target.value if target.bound == "≤" else measured >= target.value

    def comparisons(self) -> Iterator[tuple["Row | None", list[Target]]]:
        """The rows it is compared with, if any, and the target for each."""
        others: list[Row | None] = list(dict.fromkeys(each.of for each in self.targets if each.of))
        for other in others or [None]:
            of = (other, None) if other in others[:1] else (other,)
            yield other, [each for each in self.targets if each.bound and each.of in of]

    def as_json(self) -> Iterator[dict[str, Any]]:
        for other, targets in self.comparisons():
            yield {
                "subject": self.subject,
                "what": self.what,
                "unit": self.unit,
                "rounds": self.values,
                "median": self.median,
                "compared_with": other.what if other else None,
                "ratio": self.median / other.median if other else None,
                "targets": {self.shown(each): self.is_met(each) for each in targets},
            }

    def shown(self, target: Target) -> str:
        return f"{'ratio' if target.of else self.unit} {target.bound} {target.value:g}"


@dataclass(frozen=True)
class Measure:
    name: str
    rounds: int
    rows: Callable[[Stand], Rows]
    takes_minutes: bool
    """Whether it is measured only if named."""

    def run(self, stand: Stand) -> list[Row]:
        with contextmanager(self.rows)(stand) as subjects:
            rows = [row for its_rows in subjects.values() for row in its_rows]
            given = in_turns(self.rounds, {row.run: row.run for row in rows})
            for subject, its_rows in subjects.items():
                for row in its_rows:
                    row.subject = subject
                    for each in given[row.run]:
                        value = each[row.what] if isinstance(each, Mapping) else each
                        row.values += value if isinstance(value, list) else [value]
        return rows


def measure(
    name: str, *, rounds: int, takes_minutes: bool = False
) -> Callable[[Callable[[Stand], Rows]], Measure]:
    return lambda rows: Measure(name, rounds, rows, takes_minutes)


def in_turns(
    times: int, runs: Mapping[K, Callable[[], V]], *, back_and_forth: bool = False
) -> dict[K, list[V]]:
    """The results of each. They take turns (A B C A B C … or A B C C B A …), so that all of them
    see the machine in the same state."""
    results: dict[K, list[V]] = {name: [] for name in runs}
    for number in range(times):
        for name in reversed(list(runs)) if back_and_forth and number % 2 else runs:
            results[name].append(runs[name]())
    return results


def quantile(values: Sequence[float], percent: int) -> float:
    """The smallest value that `percent` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def milliseconds(seconds: Sequence[float], percent: int = 50) -> float:
    return 1000 * quantile(seconds, percent)


HEADINGS = ("what", "unit", "median", "min", "max", "ratio", "to", "target")


def table_of(rows: Sequence[Row]) -> Table:
    table = Table(box=None, header_style="bold")
    for heading in HEADINGS:
        is_number = heading in ("median", "min", "max", "ratio")
        table.add_column(heading, justify="right" if is_number else "left")
    for cells in lines_of(rows):
        table.add_row(*(cell.replace("missed", "[red]missed[/]") for cell in cells))
    return table


def lines_of(rows: Sequence[Row]) -> Iterator[list[str]]:
    """The cells of each line below HEADINGS."""
    subject = ""
    for row in rows:
        if row.subject != subject:
            subject = row.subject
            yield [subject, *[""] * (len(HEADINGS) - 1)]
        numbers = [_number(value) for value in (row.median, min(row.values), max(row.values))]
        for other, targets in row.comparisons():
            to = [_number(row.median / other.median), other.what] if other else ["", ""]
            verdicts = [
                f"{row.shown(each)} {'met' if row.is_met(each) else 'missed'}" for each in targets
            ]
            yield [f"  {row.what}", row.unit, *numbers, *to, ", ".join(verdicts)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
