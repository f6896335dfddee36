"""The picture of a soak: one small chart for each gauge. `python -m tests.faults.soak.picture
SAMPLES.json` draws it again."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.pages import check_can_draw, new_figure, save_as
from tests.faults.soak.verdict import GAUGES, known

COLUMNS = 3
POINTS = 200
"""How many a curve has at most. Below 128, matplotlib would not simplify it, for a larger file."""
FEW = 6
NAMED = 12
"""A chart with more curves than this names none of them, but counts them."""


def draw(samples: Mapping[str, Any], path: Path) -> None:
    """Writes the picture of what `life` measured. Needs matplotlib."""
    gauges = [each for each in GAUGES if samples["series"].get(each)]
    lines = -(-len(gauges) // COLUMNS)
    figure = new_figure(4 * COLUMNS, 2.4 * lines)
    charts = figure.subplots(lines, COLUMNS, sharex=True, squeeze=False).flat
    minutes = [seconds / 60 for seconds in samples["seconds"]]
    upkeep = [at / 60 for at in begun(samples, is_upkeep=True)]
    faults = [at / 60 for at in begun(samples, is_upkeep=False)]
    for gauge, chart in zip(gauges, charts, strict=False):
        curves = samples["series"][gauge]
        # What is counted, and what waits, is about the worst moment; a size is about the usual one.
        of_many = median if GAUGES[gauge].share else max
        for name, values in curves.items():
            chart.plot(*thinned(minutes, values, of_many), linewidth=0.9, label=name)
        for instants, height in ((upkeep, 1.0), (faults, 0.04)):
            # One broken line: a line for each would make the file three times as large.
            at = [each for instant in instants for each in (instant, instant, nan)]
            chart.plot(
                *(at, [0, height, nan] * len(instants)),
                color="0.6",
                linewidth=0.7,
                transform=chart.get_xaxis_transform(),
                zorder=0,
            )
        chart.set_title(GAUGES[gauge].title, fontsize=9, loc="left")
        chart.set_ylim(bottom=0)
        chart.tick_params(labelsize=7, labelbottom=True)
        if 1 < len(curves) <= NAMED:
            where = "lower right" if len(curves) > FEW else "upper right"
            chart.legend(fontsize=5, ncols=3, framealpha=0.6, loc=where)
        elif len(curves) > NAMED:
            chart.set_title(f"{len(curves)} of them", fontsize=7, loc="right")
    for chart in charts:
        chart.set_axis_off()
    figure.supxlabel(
        "minutes; a tick for each fault, a line where services, partitions or the primary change",
        fontsize=8,
    )
    save_as(figure, path)


def begun(samples: Mapping[str, Any], *, is_upkeep: bool) -> list[float]:
    """When faults, or works of upkeep, began, in seconds."""
    return [each["seconds"] for each in samples["faults"] if each["is_upkeep"] is is_upkeep]


def thinned(
    minutes: Sequence[float],
    values: Sequence[float | None],
    of_many: Callable[[list[float]], float],
) -> tuple[list[float], list[float]]:
    """A curve of at most POINTS points."""
    step = -(-len(minutes) // POINTS)
    found = [
        (median(minutes[start : start + step]), of_many(around))
        for start in range(0, len(minutes), step)
        if (around := known(values[start : start + step]))
    ]
    return [minute for minute, _ in found], [value for _, value in found]


if __name__ == "__main__":
    check_can_draw()
    given = Path(sys.argv[1])
    draw(json.loads(given.read_text()), given.with_suffix(".svg"))
