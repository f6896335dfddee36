"""The picture of a soak: one small chart for each gauge. `python -m tests.faults.soak.picture
SAMPLES.json` draws it again."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.pages import check_can_draw, new_figure, save_as
from tests.faults.soak.verdict import GAUGES

COLUMNS = 3
POINTS = 100
"""How many a curve has at most: each is the median of the values around it."""
NAMED = 12
"""A chart with more curves than this names none of them, but counts them."""


def draw(samples: Mapping[str, Any], path: Path) -> None:
    """Writes the picture of what `life` measured. Needs matplotlib."""
    gauges = [each for each in GAUGES if samples["series"].get(each)]
    lines = -(-len(gauges) // COLUMNS)
    figure = new_figure(4 * COLUMNS, 2.4 * lines)
    charts = figure.subplots(lines, COLUMNS, sharex=True, squeeze=False).flat
    minutes = [seconds / 60 for seconds in samples["seconds"]]
    for gauge, chart in zip(gauges, charts, strict=False):
        curves = samples["series"][gauge]
        for name, values in curves.items():
            chart.plot(*thinned(minutes, values), linewidth=0.9, label=name)
        for fault in samples["faults"]:
            at = fault["seconds"] / 60
            if fault["is_upkeep"]:
                chart.axvline(at, color="0.6", linewidth=0.8, zorder=0)
            else:
                chart.axvline(at, ymax=0.04, color="0.6", linewidth=0.6, zorder=0)
        chart.set_title(GAUGES[gauge].title, fontsize=9, loc="left")
        chart.set_ylim(bottom=0)
        chart.tick_params(labelsize=7, labelbottom=True)
        if 1 < len(curves) <= NAMED:
            chart.legend(fontsize=5, ncols=3, framealpha=0.6)
        elif len(curves) > NAMED:
            chart.set_title(f"{len(curves)} of them", fontsize=7, loc="right")
    for chart in charts:
        chart.set_axis_off()
    figure.supxlabel(
        "minutes; a tick for each fault, a line where services, partitions or the primary change",
        fontsize=8,
    )
    save_as(figure, path)


def thinned(
    minutes: Sequence[float], values: Sequence[float | None]
) -> tuple[list[float], list[float]]:
    step = -(-len(minutes) // POINTS)
    found = [
        (median(minutes[start : start + step]), median(known))
        for start in range(0, len(minutes), step)
        if (known := [each for each in values[start : start + step] if each is not None])
    ]
    return [minute for minute, _ in found], [value for _, value in found]


if __name__ == "__main__":
    check_can_draw()
    given = Path(sys.argv[1])
    draw(json.loads(given.read_text()), given.with_suffix(".svg"))
