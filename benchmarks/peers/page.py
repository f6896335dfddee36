"""What was measured, as a table and charts: the measured part of `docs/benchmarks.md`."""

import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import matplotlib
from matplotlib import pyplot

from benchmarks.peers.contest import QUICK_BRANCHES, Drained

DOCS = Path(__file__).parents[2] / "docs"
CHARTS = DOCS / "benchmarks"
BEGIN = "<!-- measured: make bench-peers writes what is below -->\n"
END = "<!-- measured: and above -->\n"
PACKAGES = ("celery", "dramatiq", "faststream", "pika", "SQLAlchemy", "psycopg2-binary", "asyncpg")
HEADINGS = (
    "",
    "events/s (both rounds)",
    "ours is, times as fast",
    "consumer, CPU s",
    "broker, CPU s",
    "database, CPU s",
    "memory, MB",
    "p50, ms",
    "p99, ms",
    f"wrong rows of {QUICK_BRANCHES}",
)


@dataclass
class Standing:
    """What was measured of one contestant or limit, a value a round."""

    name: str
    drained: list[Drained] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    wrong_rows: list[int] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        return [each.events_per_second for each in self.drained]

    @property
    def cpu_seconds(self) -> list[float]:
        """For 1,000 events: the consumer's, the broker's, the database's."""
        return [median(part) for part in zip(*(d.cpu_seconds for d in self.drained), strict=True)]

    @property
    def megabytes(self) -> list[float]:
        return [each.megabytes for each in self.drained if each.megabytes is not None]


def write_page(standings: Sequence[Standing], ours: Standing, servers: Sequence[str]) -> str:
    """Writes the charts and the page's measured part, and returns that."""
    measured = _measured(standings, ours, servers)
    page = DOCS / "benchmarks.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(before + BEGIN + measured + END + rest.partition(END)[2])

    matplotlib.use("svg")
    # Else each file would differ from the last one in its ids.
    matplotlib.rcParams.update({"svg.hashsalt": "mirrorfeed", "svg.fonttype": "none"})
    _draw("rate", "events/s", standings, {"": lambda each: median(each.rates)})
    contestants = [each for each in standings if each.p50_ms]
    if not any(map(math.isnan, ours.cpu_seconds)):
        _draw(
            "cpu",
            "processor seconds for 1,000 events",
            contestants,
            {
                "consumer": lambda each: each.cpu_seconds[0],
                "broker": lambda each: each.cpu_seconds[1],
                "database": lambda each: each.cpu_seconds[2],
            },
        )
    _draw(
        "delay",
        "ms from publication to the committed row",
        contestants,
        {
            "p50": lambda each: median(each.p50_ms),
            "up to p99": lambda each: median(each.p99_ms) - median(each.p50_ms),
        },
    )
    return measured


def _measured(standings: Sequence[Standing], ours: Standing, servers: Sequence[str]) -> str:
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} processors ({_processor()}),"
        f" {gigabytes:.0f} GB, {platform.system()}, Python {platform.python_version()};",
        f"{', '.join(servers)}; {packages}.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"| --- {'| ---: ' * (len(HEADINGS) - 1)}|",
        *(f"| {' | '.join(_cells(each, ours))} |" for each in standings),
    ]
    return "\n".join(["", *lines, "", ""])


def _cells(each: Standing, ours: Standing) -> list[str]:
    rounds = ", ".join(f"{rate:,.0f}" for rate in each.rates)
    return [
        each.name,
        f"{median(each.rates):,.0f} ({rounds})",
        f"{median(ours.rates) / median(each.rates):.2g}",
        *(_number(value, ".3f") for value in each.cpu_seconds),
        _median(each.megabytes, ".0f"),
        _median(each.p50_ms, ".1f"),
        _median(each.p99_ms, ".1f"),
        _median(each.wrong_rows, ",.0f"),
    ]


def _median(values: Sequence[float], pattern: str) -> str:
    return _number(median(values) if values else math.nan, pattern)


def _number(value: float, pattern: str) -> str:
    return "" if math.isnan(value) else format(value, pattern)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _draw(
    name: str,
    unit: str,
    standings: Sequence[Standing],
    parts: dict[str, Callable[[Standing], float]],
) -> None:
    """Horizontal bars, the parts of one side by side."""
    figure, axes = pyplot.subplots(figsize=(7, 0.35 * len(standings) + 1), layout="constrained")
    names = [each.name for each in standings]
    left = [0.0] * len(standings)
    for label, value in parts.items():
        widths = [value(each) for each in standings]
        axes.barh(names, widths, left=left, label=label)
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    axes.bar_label(axes.containers[-1], [f" {_short(end)}" for end in left])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    if len(parts) > 1:
        figure.legend(loc="outside upper right", ncols=len(parts), frameon=False)
    figure.savefig(CHARTS / f"peers-{name}.svg", metadata={"Date": None})
    pyplot.close(figure)
