"""Measure mirrorfeed beside bare loops: `python -m benchmarks [--json FILE] [NAME...]`.

Every name is a subject; without one, all are measured but those that take minutes. The exit code
says nothing about speed, but it is 1 where instructions are not what was recorded.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import (
    appenders,
    authserver,
    calls,
    dead_letters,
    drain,
    forwarding,
    full_spool,
    growth,
    instructions,
    latency,
    memory,
    shell,
    workers,
)
from benchmarks.report import Row, table_of
from benchmarks.stand import Stand, open_stand

SUBJECTS: dict[str, Callable[[Stand], list[Row]]] = {
    "drain": drain.measure,
    "workers": workers.measure,
    "dead-letters": dead_letters.measure,
    "memory": memory.measure,
    "calls": calls.measure,
    "appenders": appenders.measure,
    "forwarding": forwarding.measure,
    "latency": latency.measure,
    "shell": shell.measure,
    "authserver": authserver.measure,
    "instructions": instructions.measure,
}
LONG_SUBJECTS: dict[str, Callable[[Stand], list[Row]]] = {
    "full-spool": full_spool.measure,
    "growth": growth.measure,
}
"""Measured only where they are named."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = SUBJECTS | LONG_SUBJECTS
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON, too")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(known):
        parser.error(f"no subject {', '.join(sorted(unknown))}: there is {', '.join(known)}")

    rows: list[Row] = []
    with open_stand() as stand:
        for name in options.names or SUBJECTS:
            sys.stderr.write(f"measuring {name} ...\n")
            rows += known[name](stand)
        servers = stand.servers
    Console(width=None if sys.stdout.isatty() else 160).print(table_of(rows), *servers, sep="\n")
    if options.json:
        result = {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "servers": servers,
            "rows": [row.as_json() for row in rows],
        }
        options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    if complaints := instructions.complaints(rows):
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main()
