"""When a session looks for new events in the spool.

The event of a single call is sent at once. Events of calls in quick succession are gathered and
sent together, once the broker has confirmed the ones before or a moment later. That is less work
for this process, for the broker, and for the disk that both wait for. A caller may ask for longer
moments. Nothing here does I/O or reads a clock.
"""

from mirrorfeed.publisher.forward.pipeline import Pipeline

LINGER_SECONDS = 0.02
"""After a look that found LINGER_EVENTS or more, how long the next events are gathered."""
LINGER_EVENTS = 4
"""This many in that time are 200 a second. At a lower rate, gathering ends."""
CALLS_SECONDS = 0.01
"""How long after a call more calls are expected."""
LULL_SECONDS = 1.0
"""How long without a call before none is expected."""
STALL_SECONDS = 1.0
"""How long without a confirm before the events behind the unconfirmed ones are read anyway."""


class Pace:
    """The pace of the session that publishes the events of `pipeline`.

    Times are seconds of one monotonic clock. Everything except `appended` is called by the
    session's thread.
    """

    def __init__(self, pipeline: Pipeline, *, gather_seconds: float = 0.0) -> None:
        """With `gather_seconds` events are gathered for that long after any look that found one."""
        self._pipeline = pipeline
        self.linger_seconds = gather_seconds or LINGER_SECONDS
        self._linger_events = 1 if gather_seconds else LINGER_EVENTS
        self._has_appended = False
        self._appended_at = -LULL_SECONDS
        self._confirmed_at = 0.0
        self._lingers = False

    def appended(self, now: float) -> bool:
        """Something was appended to the spool. Returns whether the session must be told to look.

        May be called from any thread. While events are unconfirmed, the last confirm makes the
        session look; while it lingers, the end of that does. So its thread stays out of the way of
        calls."""
        self._appended_at = now
        if self._has_appended:
            return False
        self._has_appended = True  # before asking, see `confirmed` and `end_lingering`
        return self._pipeline.is_idle and not self._lingers

    def begin_look(self) -> None:
        self._has_appended = False  # before reading: anything appended from now on wakes it again
        self._pipeline.look_again()

    def end_look(self, published: int) -> bool:
        """The look published this many events. Returns whether the session lingers from now on;
        if so, call `end_lingering` after `linger_seconds`."""
        begins_lingering = published >= self._linger_events and not self._lingers
        self._lingers = self._lingers or begins_lingering
        return begins_lingering

    def end_lingering(self) -> bool:
        """Returns whether to look."""
        self._lingers = False
        return self._has_appended

    def confirmed(self, now: float) -> bool:
        """The pipeline was told of a confirm. Returns whether to look for new events too, not only
        to publish those that waited for the confirm."""
        self._confirmed_at = now
        return self._pipeline.is_idle and self._has_appended and not self._lingers

    def is_stalled(self, now: float) -> bool:
        return now - self._confirmed_at > STALL_SECONDS

    def is_called(self, now: float) -> bool:
        """Whether calls are coming in, and should get the interpreter between two events."""
        return now - self._appended_at < CALLS_SECONDS

    def is_lull(self, now: float) -> bool:
        """Whether no calls have come in for a while, so that it may be others who append."""
        return now - self._appended_at >= LULL_SECONDS
