"""One of many pullers on one spool: `python -m benchmarks.appender SPOOL CALLS`.

Says that it is ready, waits for a line, then calls without a pause. Prints when it began and ended,
in seconds of the monotonic clock, and how long each call took.
"""

import json
import sys
import time
from contextlib import closing

from benchmarks.load import BRANCHES
from mirrorfeed.publisher import BranchStatusClient


def main(spool: str, calls: int) -> None:
    with closing(BranchStatusClient(spool, forward=False)) as client:
        print("ready", flush=True)
        sys.stdin.readline()
        began_at = time.monotonic()
        seconds = timed_calls(client, calls)
        ended_at = time.monotonic()
    print(json.dumps({"began_at": began_at, "ended_at": ended_at, "seconds": seconds}))


def timed_calls(client: BranchStatusClient, calls: int) -> list[float]:
    """The seconds of each."""
    seconds: list[float] = []
    for number in range(calls):
        began_at = time.perf_counter()
        client.start_mirroring(number * 7 % BRANCHES + 1)
        seconds.append(time.perf_counter() - began_at)
    return seconds


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
