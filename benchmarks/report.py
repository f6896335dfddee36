"""What was measured: rows, and how they are shown."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table


@dataclass(frozen=True)
class Target:
    """What the project promises of a row: of its ratio where it is compared, else of its median."""

    bound: Literal["≥", "≤"]
    value: float
    of_ratio: bool = True

    def is_met(self, row: "Row") -> bool:
        measured = row.ratio if self.of_ratio else row.median
        if measured is None:
            return False
        return measured >= self.value if self.bound == "≥" else measured <= self.value


@dataclass(frozen=True)
class Row:
    """One thing that was measured, once a round; all `values` are in `unit`."""

    subject: str
    what: str
    unit: str
    values: Sequence[float]
    compared_with: "Row | None" = None
    targets: Sequence[Target] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """This median in units of the other row's, without a dimension."""
        return self.median / self.compared_with.median if self.compared_with else None

    def as_json(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "what": self.what,
            "unit": self.unit,
            "rounds": list(self.values),
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "compared_with": self.compared_with.what if self.compared_with else None,
            "ratio": self.ratio,
            "targets": [
                {
                    "of": "ratio" if target.of_ratio else "median",
                    "bound": target.bound,
                    "value": target.value,
                    "met": target.is_met(self),
                }
                for target in self.targets
            ],
        }


def quantile(values: Sequence[float], percent: int) -> float:
    """The smallest value that `percent` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def table_of(rows: Sequence[Row]) -> Table:
    table = Table("what", "unit", box=None, header_style="bold")
    for heading in ("median", "min", "max", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("to")
    table.add_column("target")
    subject = ""
    for row in rows:
        if row.subject != subject:
            subject = row.subject
            table.add_row(f"[bold]{subject}[/]")
        table.add_row(
            f"  {row.what}",
            row.unit,
            *(_number(value) for value in (row.median, min(row.values), max(row.values))),
            "" if row.ratio is None else _number(row.ratio),
            row.compared_with.what if row.compared_with else "",
            ", ".join(_target(row, target) for target in row.targets),
        )
    return table


def _target(row: Row, target: Target) -> str:
    of = "ratio" if target.of_ratio else row.unit
    verdict = "[green]met[/]" if target.is_met(row) else "[red]missed[/]"
    return f"{of} {target.bound} {target.value:g} {verdict}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
