"""Durations as people type them."""

import re
from datetime import timedelta

from mirrorfeed.contract.events import shown

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MAX_SECONDS = 1e9


def duration(text: str) -> timedelta:
    """Reads a duration as operators type it: a whole number and a unit. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,10})([smhd])", text)
    if match is None or (seconds := int(match[1]) * UNITS[match[2]]) > MAX_SECONDS:
        raise ValueError(
            f"the duration {shown(text)} cannot be read: give a whole number and s, m, h or d, such"
            " as 90s, 15m, 6h or 2d"
        )
    return timedelta(seconds=seconds)
