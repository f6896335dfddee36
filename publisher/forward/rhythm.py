"""How soon a session looks at the spool again, for what other processes appended.

While something goes on it looks ten times a second. Later it rests, and leaves it to Linux to tell
when somebody writes to the spool. What is written can be read once it is committed, which nobody
tells: so from then on it looks sooner, and then less and less often. Nothing here does I/O or reads
a clock.
"""

POLL_SECONDS = 0.1
REST_SECONDS = 1.0
"""Also while it rests it looks now and then, should something not be told."""
COMMIT_SECONDS = 0.001
"""How soon it looks after something was written. A commit by an older version, which waits for the
disk, takes about as long."""
AWAKE_SECONDS = 5.0
"""How long it goes on looking after something happened. A commit that takes longer may have begun
before a watch was set, and end while the session rests."""


class Rhythm:
    """Times are seconds of one monotonic clock."""

    def __init__(self, now: float) -> None:
        self._pause_seconds = POLL_SECONDS
        self._rests_at = now + AWAKE_SECONDS

    @property
    def is_in_haste(self) -> bool:
        """Whether something was written that could not be read yet."""
        return self._pause_seconds < POLL_SECONDS

    def stirred(self, now: float) -> None:
        """Something happened to the spool."""
        self._rests_at = now + AWAKE_SECONDS

    def written(self, now: float) -> float:
        """Somebody writes to the spool. Returns the seconds until the next look."""
        self.stirred(now)
        self._pause_seconds = COMMIT_SECONDS
        return COMMIT_SECONDS

    def looked(self, now: float, *, has_found: bool, may_rest: bool) -> float:
        """The session has looked, and `may_rest` if it would be told. Returns the seconds until the
        next look."""
        if has_found:
            self.stirred(now)
            self._pause_seconds = POLL_SECONDS
        else:
            self._pause_seconds = min(2 * self._pause_seconds, POLL_SECONDS)
        if may_rest and not self.is_in_haste and now >= self._rests_at:
            return REST_SECONDS
        return self._pause_seconds
