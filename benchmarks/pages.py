"""Pages of the documentation that measures write their results into, and the charts."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
BEGIN = "<!-- measured: a command writes what is below -->\n"
END = "<!-- measured: and above -->\n"


def check_can_draw() -> None:
    """Ends the program before it measures anything in vain."""
    if find_spec("matplotlib") is None:
        raise SystemExit(
            "this draws with matplotlib: `make bench-growth`, `bench-peers` or `soak` has it"
        )


def new_figure(width: float, height: float) -> Any:
    # Imported only here: just the targets that need it install it.
    import matplotlib
    from matplotlib.figure import Figure

    # So that the same curve gives the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "mirrorfeed", "svg.fonttype": "none"})
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, name: str) -> None:
    save_as(figure, DOCS / "benchmarks" / f"{name}.svg")


def save_as(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})


def write_measured(
    page: str, servers: Sequence[str], packages: Sequence[str], table: Sequence[Sequence[str]]
) -> str:
    """Writes the measured part of the page, and returns it."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = [
        f"{package} {version(package)}" for package in ("pika", "psycopg2-binary", *packages)
    ]
    head, *rows = (f"| {' | '.join(cells)} |" for cells in table)
    measured = f"""
{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} processors ({_processor()}), {gigabytes:.0f} GB,
{platform.system()}, Python {platform.python_version()}; {", ".join((*servers, *versions))}.

{head}
| {" | ".join("---:" if cell[:1].isdigit() else "---" for cell in table[-1])} |
""" + "".join(f"{row}\n" for row in rows)
    path = DOCS / page
    before, _, rest = path.read_text().partition(BEGIN)
    path.write_text(f"{before}{BEGIN}{measured}\n{END}{rest.partition(END)[2]}")
    return measured


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
