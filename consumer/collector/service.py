"""The collector as a service: it looks again and again."""

from datetime import timedelta
from time import monotonic

from mirrorfeed.consumer.collector.reading import Reader, Reading
from mirrorfeed.contract.cached import Cached

PATIENCE_SECONDS = 600.0
"""Longer than the servers and each query may take."""


class Collecting:
    """Readings for whoever asks, at once. `readings` does the reading while it is used as a
    context."""

    def __init__(self, reader: Reader, interval: timedelta) -> None:
        self._reader = reader
        self._interval_seconds = interval.total_seconds()
        self._looked_at = monotonic()
        self.readings: Cached[Reading] = Cached(
            "what is collected",
            self._read,
            interval_seconds=self._interval_seconds,
            max_age_seconds=self._interval_seconds + PATIENCE_SECONDS,
        )

    def why_not_live(self) -> str | None:
        """Why only a restart would help; None if it is live. From any thread, at once."""
        seconds = monotonic() - self._looked_at
        if seconds > self._interval_seconds + PATIENCE_SECONDS:
            return f"it has looked at nothing for {seconds:.0f} s"
        return None

    def why_not_ready(self) -> str | None:
        """Why its metrics are not complete; None if they are. From any thread, at once."""
        reading = self.readings.latest()
        if reading is None:
            return "it has not seen anything yet"
        if reading.database is None:
            return "the database is away: its log says why"
        return None if reading.is_complete else "the broker is away: its log says why"

    def _read(self) -> Reading:
        self._looked_at = monotonic()
        return self._reader.read()
