"""The one way the sandbox waits."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], timeout_seconds: float, what: str) -> None:
    """Return as soon as `condition` holds, checking less and less often, down to every 0.1 s.

    `what` completes the sentence "waited 60 s for ...".

    Raises:
        TimeoutError: `condition` did not hold within `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    pause_seconds = 0.005
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_seconds:g} s for {what}")
        time.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 1.5, 0.1)
