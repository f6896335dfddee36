"""How many instructions the hot path takes: `python -m benchmarks.instructions [--record]`.

On a busy machine a clock is unreliable; a count is the same each time. It depends on the Python,
the kind of processor and msgspec, so instructions.json has figures for each combination.
`--record` writes the counts there.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks.counted import PARTS
from benchmarks.harness import Row, Rows, at_least, at_most, measure
from benchmarks.stand import Stand

FEW = 1000
MANY = 3000
"""Events in each of the two runs; the difference between them counts."""
TOLERANCE = 0.05
FIGURES = Path(__file__).with_suffix(".json")
SUBJECT = "instructions, of one event"
RECORD = "python -m benchmarks.instructions --record"


@measure("instructions", rounds=1)
def instructions(_stand: Stand) -> Rows:
    if not shutil.which("valgrind"):
        sys.stderr.write("instructions need valgrind: apt-get install valgrind\n")
        yield {}
        return
    known = read_figures().get(surroundings(), {})
    if not known:
        sys.stderr.write(f"there are no figures of {surroundings()} to compare with: {RECORD}\n")
    yield {SUBJECT: rows_of(count_all(), known)}


def rows_of(counts: Mapping[str, int], known: Mapping[str, int]) -> list[Row]:
    rows: list[Row] = []
    for part, count in counts.items():
        targets = []
        if part in known:
            rows.append(Row(f"{part}, as recorded", "instructions", partial(int, known[part])))
            targets = [at_least(1 - TOLERANCE, rows[-1]), at_most(1 + TOLERANCE, rows[-1])]
        rows.append(Row(part, "instructions", partial(int, count), *targets))
    return rows


def complaints(rows: Sequence[Row]) -> list[str]:
    """Complaints about counts that differ from those recorded, in either direction."""
    return [
        f"{row.what} takes {row.median:,.0f} instructions an event, recorded are"
        f" {recorded.median:,.0f}: if that is meant, {RECORD}"
        for row in rows
        if row.subject == SUBJECT
        for recorded, targets in row.comparisons()
        if recorded and not all(map(row.is_met, targets))
    ]


def count_all() -> dict[str, int]:
    """Instructions per event, for each part."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # other processes do not matter
        few = {part: threads.submit(_count, part, FEW) for part in PARTS}
        many = {part: threads.submit(_count, part, MANY) for part in PARTS}
    return {
        part: round((many[part].result() - few[part].result()) / (MANY - FEW)) for part in PARTS
    }


def _count(part: str, events: int) -> int:
    """All instructions of a process, outside the kernel."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    done = subprocess.run(
        [*command, "-m", "benchmarks.counted", part, str(events)],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"{part} could not be counted:\n{done.stderr}")
    return int(found[1])


def surroundings() -> str:
    """The combination that the figures depend on."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {platform.machine()}, msgspec {version('msgspec')}"


def read_figures() -> dict[str, dict[str, int]]:
    figures: dict[str, dict[str, int]] = json.loads(FIGURES.read_text())
    return figures


if __name__ == "__main__":
    counted = count_all()
    print(*(f"{part:8} {count:10,}" for part, count in counted.items()), sep="\n")
    if sys.argv[1:] == ["--record"]:
        figures = {**read_figures(), surroundings(): counted}
        FIGURES.write_text(json.dumps(figures, indent=4, sort_keys=True) + "\n")
