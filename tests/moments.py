"""Instants at which a limit in time is easy to get wrong."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 7, 5, 12, tzinfo=UTC)
MOMENTS = [
    NOON,
    datetime(2026, 7, 6, 0, 10, tzinfo=UTC),
    datetime(2026, 3, 29, 3, 10, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1),
]
NAMES = ["at noon", "just after midnight", "after an hour was left out", "in an hour's repetition"]
