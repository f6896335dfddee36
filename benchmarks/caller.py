"""A puller that calls its client at an even pace.

`python -m benchmarks.caller SPOOL RATE CALLS FIRST_BRANCH` mirrors one branch after the other.

Prints when each call was due, in seconds of the monotonic clock. A call that is late because the
one before it took long is due all the same: its wait counts.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.spool import Spool
from sandbox import wait_until


def at_pace(rate: float, count: int) -> Iterator[float]:
    """When each of `count` calls is due, in seconds of the monotonic clock; not before it is."""
    began_at = time.monotonic()
    for number in range(count):
        due = began_at + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        yield due


def main(spool: str, rate: int, calls: int, first_branch: int) -> None:
    client = BranchStatusClient(spool)
    due_at: dict[str, float] = {}
    for number, due in enumerate(at_pace(rate, calls)):
        branch_id, is_end = first_branch + number // 2, number % 2
        if is_end:
            client.mirror_complete(branch_id, "0123456789abcdef0123456789abcdef01234567")
        else:
            client.start_mirroring(branch_id)
        due_at[f"{'ended' if is_end else 'started'} {branch_id}"] = due
    print(json.dumps(due_at), flush=True)
    with closing(Spool(Path(spool))) as view:
        wait_until(lambda: not view.pending(after=0, limit=1), 60, "the forwarder to send all")
    client.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
