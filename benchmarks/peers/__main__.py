"""Compare mirrorfeed with its peers: `python -m benchmarks.peers [WORD...]`.

Writes the measured part of `docs/benchmarks.md` and its charts, and prints it. With words, only
what has one of them in its name is measured beside mirrorfeed, and nothing is written. Fails if an
event is lost.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from statistics import median

from benchmarks.harness import in_turns
from benchmarks.pages import check_can_draw, new_figure, save, write_measured
from benchmarks.peers import built, contest
from benchmarks.peers.contest import CPU, P50, P99, RATE, TOGETHER, WRONG_ROWS, Numbers
from benchmarks.peers.contestants import OTHERS, OURS, Contestant
from benchmarks.stand import Stand, open_stand

ROUNDS = 5
PACKAGES = ("aio-pika", "celery", "dramatiq", "faststream", "SQLAlchemy", "asyncpg")
FORMATS = {
    **dict.fromkeys((*CPU, TOGETHER), ",.0f"),
    **{contest.MEMORY: ".0f", P50: ".1f", P99: ".1f", WRONG_ROWS: ",.0f"},
}
HEADINGS = ("", f"{RATE} (least, most)", "ours is, times as fast", *FORMATS, "less than ours")
Seen = Mapping[str, float]
"""The medians."""


def main(words: Sequence[str]) -> None:
    check_can_draw()
    with open_stand() as stand:
        made, versions, missing = _make_others(stand)
        everyone = [OURS, *made, *OTHERS]
        every_run: dict[str, Callable[[], Numbers]] = {
            **{name: partial(contest.run_limit, stand, name) for name in contest.LIMITS},
            **{each.name: partial(contest.run_contestant, stand, each) for each in everyone},
        }
        runs = {
            name: run
            for name, run in every_run.items()
            if not words or name == OURS.name or any(word in name for word in words)
        }
        try:
            given = in_turns(ROUNDS, runs, back_and_forth=True)
        finally:
            contest.forget_peers(stand)
    if wrong := [each[WRONG_ROWS] for each in given[OURS.name] if each[WRONG_ROWS]]:
        sys.exit(f"mirrorfeed left wrong rows: {wrong}")
    seen = {
        name: {column: median(each[column] for each in rounds) for column in rounds[0]}
        for name, rounds in given.items()
    }
    lacks = {each.name: each.lacks for each in everyone}
    rows = []
    for name, rounds in given.items():
        rates = [each[RATE] for each in rounds]
        times_as_fast = seen[OURS.name][RATE] / seen[name][RATE]
        values = [(seen[name].get(column, math.nan), spec) for column, spec in FORMATS.items()]
        cells = ["" if math.isnan(value) else format(value, spec) for value, spec in values]
        spread = f"{seen[name][RATE]:,.0f} ({min(rates):,.0f}, {max(rates):,.0f})"
        rows.append((name, spread, f"{times_as_fast:.2g}", *cells, lacks.get(name, "")))
    absent = [(name, f"not measured: {why}", *[""] * len(HEADINGS[2:])) for name, why in missing]
    table = [HEADINGS, *absent, *rows]
    if words:
        print(*(" | ".join(cells) for cells in table), sep="\n")
        return
    servers = (*stand.servers, *versions)
    print(write_measured("benchmarks.md", servers, PACKAGES, table))
    contestants = {name: each for name, each in seen.items() if P50 in each}
    _draw("rate", RATE, seen, {"": lambda each: each[RATE]})
    if not any(map(math.isnan, seen[OURS.name].values())):
        of_whom = {column.split(",")[0]: itemgetter(column) for column in CPU}
        _draw("cpu", "µs of processor an event", contestants, of_whom)
    parts = {"p50": lambda each: each[P50], "up to p99": lambda each: each[P99] - each[P50]}
    _draw("delay", "ms from publication to the committed row", contestants, parts)


def _make_others(stand: Stand) -> tuple[list[Contestant], list[str], list[tuple[str, str]]]:
    """Those that could be made, their versions, and what the rest lacks."""
    made, versions, missing = [], [], []
    for number, name in enumerate(built.MAKERS):
        try:
            contestant, version = built.make(name, stand.folder / f"built-{number}")
        except built.Missing as why:
            missing.append((name, str(why)))
        else:
            made.append(contestant)
            versions.append(version)
    return made, versions, missing


def _draw(
    name: str, unit: str, seen: Mapping[str, Seen], parts: Mapping[str, Callable[[Seen], float]]
) -> None:
    """Horizontal bars, with the parts of each side by side."""
    figure = new_figure(7, 0.35 * len(seen) + 1)
    axes = figure.subplots()
    left = [0.0] * len(seen)
    for label, value in parts.items():
        widths = list(map(value, seen.values()))
        axes.barh(list(seen), widths, left=left, label=label)
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    ends = [f" {end:,.0f}" if end >= 100 else f" {end:.2g}" for end in left]
    axes.bar_label(axes.containers[-1], ends)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    if len(parts) > 1:
        figure.legend(loc="outside upper right", ncols=len(parts), frameon=False)
    save(figure, f"peers-{name}")


if __name__ == "__main__":
    main(sys.argv[1:])
