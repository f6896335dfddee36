"""What a service says of something that is away: in the beginning, now and then, in the end."""

from logging import Logger
from time import monotonic

HEARTBEAT_SECONDS = 60.0
REASONS = 5
"""How many different reasons an outage tells at once; further ones wait for the heartbeat."""


class Outage:
    """Something that a service cannot do without is away. Logs a line when that begins, one when it
    is over, and a slow heartbeat in between, however often it is tried. A reason that it has not
    told yet, such as a wrong password once the server is up, it tells at once."""

    def __init__(self, logger: Logger, what: str) -> None:
        """`what` it is, such as `the broker`."""
        self._logger = logger
        self._what = what
        self._began_at: float | None = None
        self._told_at = 0.0
        self._reasons: set[str] = set()

    def goes_on(self, because: str, **fields: object) -> None:
        """It is away, as another attempt has shown."""
        now = monotonic()
        if self._began_at is None:
            self._began_at = self._told_at = now
            self._reasons = {because}
            self._logger.warning(
                "%s is away; trying again", self._what, extra={"because": because, **fields}
            )
        elif now - self._told_at >= HEARTBEAT_SECONDS or self._is_news(because):
            self._told_at = now
            self._reasons.add(because)
            seconds = round(now - self._began_at)
            self._logger.warning(
                "%s is still away",
                self._what,
                extra={"because": because, **fields, "seconds": seconds},
            )

    def _is_news(self, because: str) -> bool:
        return because not in self._reasons and len(self._reasons) < REASONS

    def is_over(self) -> None:
        """It is there. Says nothing if it was never away."""
        if self._began_at is not None:
            seconds = round(monotonic() - self._began_at, 1)
            self._began_at = None
            self._logger.info("%s is back", self._what, extra={"seconds": seconds})
