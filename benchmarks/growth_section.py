"""What was seen of growth, as a section of the documentation with a picture."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from benchmarks.backlog import Backlog
from benchmarks.report import Row

TEXT = """\
# Growth

What `make bench-growth` saw on {date}: {servers}, Python {python}, {system},
{processors} processors ({processor}) that worker, broker and database share.
[How it is measured](../../benchmarks/README.md).

![Events a second by what is in the tables, and through a large backlog](growth.svg)

{table}
"""


@dataclass(frozen=True)
class Cell:
    """What a worker drained with so much in the tables."""

    branches: int
    attempts: int
    row: Row


def check_can_draw() -> None:
    """Ends the program before anything is measured in vain."""
    if find_spec("matplotlib") is None:
        raise SystemExit("growth needs matplotlib for its picture: make bench-growth installs it")


def write_section(
    path: Path, rows: Sequence[Row], cells: Sequence[Cell], backlog: Backlog, servers: Sequence[str]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw(path.with_suffix(".svg"), cells, backlog)
    path.write_text(
        TEXT.format(
            date=datetime.now(UTC).date(),
            servers=", ".join(servers),
            python=platform.python_version(),
            system=f"{platform.system()} {platform.release()}",
            processors=os.cpu_count(),
            processor=_processor(),
            table=_table(rows),
        )
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _table(rows: Sequence[Row]) -> str:
    lines = ["| | median | least to most | ratio | target |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        targets = [
            f"{each.bound} {each.value:g}{'' if each.is_met(row) else ': missed'}"
            for each in row.targets
        ]
        spread = f"{min(row.values):,.0f} to {max(row.values):,.0f}" if len(row.values) > 1 else ""
        lines.append(
            f"| {row.subject}: {row.what} | {row.median:,.0f} {row.unit} | {spread} | {ratio} |"
            f" {', '.join(targets)} |"
        )
    return "\n".join(lines)


def _draw(path: Path, cells: Sequence[Cell], backlog: Backlog) -> None:
    # Only here: it is installed by nothing but the target that needs it.
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "growth"  # the same curve is the same file
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    by_size, by_tenth = figure.subplots(1, 2, sharey=True)

    attempt_counts = sorted({cell.attempts for cell in cells})
    for branches in sorted({cell.branches for cell in cells}):
        line = [cell for cell in cells if cell.branches == branches]
        medians = [cell.row.median for cell in line]
        by_size.errorbar(
            [attempt_counts.index(cell.attempts) for cell in line],
            medians,
            yerr=[
                [cell.row.median - min(cell.row.values) for cell in line],
                [max(cell.row.values) - cell.row.median for cell in line],
            ],
            marker="o",
            capsize=3,
            label=f"{branches:,} branches",
        )
    by_size.set_xticks(range(len(attempt_counts)), [f"{count:,}" for count in attempt_counts])
    by_size.set_xlabel("attempts in the table before")
    by_size.set_ylabel("events/s")
    by_size.legend()

    by_tenth.plot(range(1, len(backlog.rates) + 1), backlog.rates, marker="o")
    by_tenth.set_xlabel(f"tenth of a backlog of {backlog.events:,} events")
    by_tenth.set_ylim(bottom=0)
    figure.savefig(path, metadata={"Date": None})
