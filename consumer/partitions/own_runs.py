"""The names of markers and canaries: the consumer's own events are runs of scripts."""

import re

MARKER_NAME = "mirror-consumer topology"


def canary_name(number: int) -> str:
    return f"canary-{number}"


def is_own_run(name: str) -> bool:
    """Whether runs with this name are ours. They take place when an operator needs them, so nobody
    can say when the next one is due."""
    return name == MARKER_NAME or re.fullmatch(r"canary-\d+", name) is not None
