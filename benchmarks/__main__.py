"""Compare mirrorfeed with bare loops: `python -m benchmarks [--json FILE] [NAME...]`.

Without a name it runs every measure except those that take minutes. The exit code says nothing
about speed, but it is 1 if instruction counts differ from those recorded.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import (
    authserver,
    full_spool,
    growth,
    hosts,
    instructions,
    latency,
    page,
    puller,
    pulling,
    safety,
    worker,
)
from benchmarks.harness import Row, table_of
from benchmarks.stand import open_stand

MEASURES = (
    *(worker.drain, worker.workers, safety.dead_letters, worker.memory),
    *(puller.calls, puller.appenders, puller.forwarding, latency.latency, puller.shell),
    *(authserver.authserver, instructions.instructions, full_spool.full_spool, growth.growth),
    *(pulling.pulling, page.page, hosts.hosts),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = {each.name: each for each in MEASURES}
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(known):
        parser.error(f"no measure {', '.join(sorted(unknown))}: there is {', '.join(known)}")

    rows: list[Row] = []
    with open_stand() as stand:
        for name in options.names or [each.name for each in MEASURES if not each.takes_minutes]:
            sys.stderr.write(f"measuring {name} ...\n")
            rows += known[name].run(stand)
        servers = stand.servers
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table_of(rows), *servers, sep="\n")
    if options.json:
        result = {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "servers": servers,
            "rows": [line for row in rows for line in row.as_json()],
        }
        options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    if complaints := instructions.complaints(rows):
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main()
