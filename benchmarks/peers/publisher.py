"""A peer's own client: `python -m benchmarks.peers.publisher MODULE FILE [RATE]`.

Publishes the bodies of the file, one a line, RATE a second or as fast as it can, and then prints
when each was due, as `benchmarks.caller` does.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.caller import at_pace


def main(module: str, file: str, rate: str = "") -> None:
    bodies = Path(file).read_bytes().splitlines()
    due_at: dict[str, float] = {}
    when = _when_due(bodies, float(rate), due_at) if rate else bodies
    import_module(module).publish(when)
    print(json.dumps(due_at))


def _when_due(bodies: Sequence[bytes], rate: float, due_at: dict[str, float]) -> Iterator[bytes]:
    names = [_name(msgspec.json.decode(body)) for body in bodies]
    for due, name, body in zip(at_pace(rate, len(bodies)), names, bodies, strict=True):
        due_at[name] = due
        yield body


def _name(event: dict[str, Any]) -> str:
    kind = "started" if event["type"] == "mirror.started" else "ended"
    return f"{kind} {event['subject']}"


if __name__ == "__main__":
    main(*sys.argv[1:])
