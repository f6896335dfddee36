"""Run the tests in cells, each with the versions of one Debian: `python -m tests.matrix [CELL...]`.

One cell after the other, of the committed files only, each from a bare system. A row for each goes
into docs/compatibility.md; what the commands printed is in build/matrix.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from sandbox import SandboxError
from tests.bare.system import ROOT, BareSystem, NotPossible, bare_system, check_possible
from tests.matrix.cells import (
    CELLS,
    GIVEN,
    UNASKED,
    Cell,
    UnknownCell,
    chosen,
    commands,
    extent,
    given_servers,
)
from tests.matrix.counts import Counts, counted, names_of_failed
from tests.matrix.table import TITLES, Row, last_seconds, line, with_row

DOCUMENT = ROOT / "docs" / "compatibility.md"
LOGS = ROOT / "build" / "matrix"
CELL_SECONDS = 3 * 3600
"""Only the whole suite, on a machine that does much else, takes more than one."""
ANSWER_SECONDS = 600
NOT_KNOWN = "-"


class Failed(Exception):
    """A cell that has no row; the message says why."""


def main() -> int:
    """Run the command line and return its exit code: 1 if something failed in any cell."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.matrix",
        description=__doc__,
        epilog=f"Cells: {', '.join(CELLS)}; without names {', '.join(UNASKED)}.",
    )
    parser.add_argument("cells", nargs="*", metavar="CELL")
    parser.add_argument(
        "--whole", action="store_true", help="all of `make test`, not its main part"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda signum, _frame: sys.exit(128 + signum))
    try:
        cells = chosen(options.cells)
    except UnknownCell as error:
        print(f"matrix: {error}", file=sys.stderr)
        return 2
    announce(cells)
    print(line(TITLES), line("---" for _ in TITLES), sep="\n", flush=True)
    failed = []
    for cell in cells:
        try:
            row, complaints = run_cell(cell, whole=options.whole)
        except (Failed, NotPossible, SandboxError, OSError, subprocess.SubprocessError) as error:
            print(f"{cell.name}: not run: {error}", file=sys.stderr, flush=True)
            failed.append(cell.name)
            continue
        print(line(vars(row).values()), flush=True)
        DOCUMENT.write_text(with_row(DOCUMENT.read_text(), row))
        for complaint in complaints:
            print(f"{cell.name}: failed: {complaint}", file=sys.stderr, flush=True)
        if complaints:
            failed.append(cell.name)
    if failed:
        print(f"matrix: failed: {', '.join(failed)}; see {LOGS}", file=sys.stderr)
    return 1 if failed else 0


def announce(cells: Sequence[Cell]) -> None:
    """Says what it will take, from what it took the last time."""
    known = last_seconds(DOCUMENT.read_text())
    print(f"{len(cells)} cells, one after the other:")
    for cell in cells:
        seconds, day = known.get(cell.name, (0, ""))
        lasted = f"{seconds / 60:.0f} min on {day}" if seconds else "not timed yet"
        print(f"  {cell.name}: {cell.what} on Debian {cell.suite}: {lasted}")
    print(
        "Each fetches up to 200 MB, a Debian's first 100 MB more; they take 2.5 GB in /var/tmp, one"
        f" at a time. Of each Debian 0.4 GB stay for a week. What they print is in {LOGS}.",
        flush=True,
    )


def run_cell(cell: Cell, *, whole: bool) -> tuple[Row, list[str]]:
    """Its row, and what failed. Raises Failed if not even versions are known, NotPossible,
    SandboxError, OSError and subprocess.TimeoutExpired."""
    check_possible(cell.suite)
    variables = given_servers() if cell.name == GIVEN else {}
    complaints = []
    LOGS.mkdir(parents=True, exist_ok=True)
    with bare_system(cell.suite) as system, log_of(cell).open("w") as log:
        began = time.monotonic()
        for command in commands(cell, whole=whole):
            result = system.try_run(
                command, variables=variables, log=log, timeout_seconds=CELL_SECONDS
            )
            if result.returncode:
                complaints.append(command.partition(" TESTS=")[0])
        seconds = time.monotonic() - began
        versions = versions_in(cell, system, variables)
        debian = (system.folder / "etc" / "debian_version").read_text().strip()
    said = log_of(cell).read_text(errors="replace")
    counts = counted(said)
    complaints += names_of_failed(said)
    if not counts.passed:
        complaints.append("to pass any test")
    part = extent(cell, whole=whole)
    demo = "; `make demo` failed" if "make demo" in complaints else ""
    row = row_of(cell, debian, versions, counts, seconds, what=f"{cell.what}{part}{demo}")
    return row, complaints


def log_of(cell: Cell) -> Path:
    """What its commands print, while they run."""
    return LOGS / f"{cell.name}.log"


def versions_in(cell: Cell, system: BareSystem, variables: dict[str, str]) -> dict[str, str]:
    """Raises Failed."""
    ask = f"{cell.python} -m tests.matrix.versions"
    if cell.servers:
        ask = f"{cell.python} -m sandbox -- {ask}"
    result = system.try_run(ask, variables=variables, timeout_seconds=ANSWER_SECONDS)
    if result.returncode:
        raise Failed(f"its versions are not known: {result.stdout}")
    versions: dict[str, str] = json.loads(result.stdout.splitlines()[-1])
    return versions


def row_of(
    cell: Cell,
    debian: str,
    versions: dict[str, str],
    counts: Counts,
    seconds: float,
    *,
    what: str,
) -> Row:
    return Row(
        cell=cell.name,
        debian=debian,
        python=versions["python"],
        postgresql=versions.get("postgresql", NOT_KNOWN),
        rabbitmq=versions.get("rabbitmq", NOT_KNOWN),
        pika=versions["pika"] if cell.servers else versions["compared"],
        what=what,
        passed=str(counts.passed),
        failed=str(counts.failed),
        skipped=str(counts.skipped),
        seconds=f"{seconds:.0f}",
        on=date.today().isoformat(),
    )


if __name__ == "__main__":
    sys.exit(main())
