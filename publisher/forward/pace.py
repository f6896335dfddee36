"""When a session looks into the spool for what was appended.

A call that comes alone is sent at once. Calls in quick succession are gathered, and go together
when the broker has confirmed what went before, or a moment later: that is less work for this
process, for the broker and for the disk that both wait for. Nothing here does I/O or asks a clock.
"""

from mirrorfeed.publisher.forward.pipeline import Pipeline

LINGER_SECONDS = 0.02
"""Where a look found LINGER_EVENTS or more, how long what comes next is gathered."""
LINGER_EVENTS = 4
"""So many in that time are 200 a second: what comes more slowly is not kept waiting again."""
CALLS_SECONDS = 0.01
STALL_SECONDS = 1.0
"""How long no confirm comes until what is behind the unconfirmed events is read all the same."""


class Pace:
    """Of the session that publishes what `pipeline` gives out.

    Times are seconds of one monotonic clock. All is called by the session's thread, but for
    `appended`.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._has_appended = False
        self._appended_at = 0.0
        self._confirmed_at = 0.0
        self._lingers = False

    def appended(self, now: float) -> bool:
        """Something was appended to the spool. Returns whether the session must be told to look.

        From any thread. While events are unconfirmed the last confirm makes the session look, and
        while it lingers, the end of that: so its thread does not get in the way of calls."""
        self._appended_at = now
        if self._has_appended:
            return False
        self._has_appended = True  # before asking, see `confirmed` and `end_lingering`
        return self._pipeline.is_idle and not self._lingers

    def begin_look(self) -> None:
        self._has_appended = False  # before reading: what is appended from now on wakes again
        self._pipeline.look_again()

    def end_look(self, published: int) -> bool:
        """The look found so many events to publish. Returns whether the session lingers from now
        on: `end_lingering` follows after LINGER_SECONDS."""
        begins_lingering = published >= LINGER_EVENTS and not self._lingers
        self._lingers = self._lingers or begins_lingering
        return begins_lingering

    def end_lingering(self) -> bool:
        """Returns whether to look."""
        self._lingers = False
        return self._has_appended

    def confirmed(self, now: float) -> bool:
        """The pipeline was told of a confirm. Returns whether to look, and not only to publish what
        waited for it."""
        self._confirmed_at = now
        return self._pipeline.is_idle and self._has_appended and not self._lingers

    def is_stalled(self, now: float) -> bool:
        return now - self._confirmed_at > STALL_SECONDS

    def is_called(self, now: float) -> bool:
        """Whether calls come right now, and should have the interpreter between two events."""
        return now - self._appended_at < CALLS_SECONDS
