"""Which event may be published next: in order within a key, pipelined across keys.

A nack for one message does not stop the broker from taking the next. So a partition key has at
most one unconfirmed event, and a key whose event was nacked or returned is held until it is
retried; all other keys go on. Reading the spool is the only I/O here.
"""

from collections import deque
from collections.abc import Collection
from itertools import takewhile

from mirrorfeed.publisher.spool import Spool, SpooledEvent

READ_AHEAD = 500
KEPT_BYTES = 8 * 1024**2
"""How many bytes of events with a busy key are kept in memory. Beyond that nothing is read until
some of them are confirmed, or it is clear that none will be for now."""


class Pipeline:
    """The events of one channel in confirm mode, from the spool's first to its last."""

    def __init__(
        self,
        spool: Spool,
        *,
        window: int,
        careful_until: int = 0,
        held: Collection[str] = (),
    ) -> None:
        """At most `window` events are unconfirmed at once, but only one up to sequence
        `careful_until`, so that it is known which event makes the broker close the channel. The
        keys in `held` wait for `retry_held` from the start."""
        self._spool = spool
        self._window = window
        self._careful_until = careful_until
        self._read: deque[SpooledEvent] = deque()
        self._may_have_more = True
        self._cursor = 0  # every event up to here was taken, or has a busy key
        self._settled_by_others = 0  # before the spool was read from its start
        self._unconfirmed: dict[int, SpooledEvent] = {}  # by delivery tag
        self._returned: set[str] = set()
        # A key is busy, and listed here, while one of its events is unconfirmed, held or ready to
        # be published. Its events read meanwhile wait here, in order: first those of which only
        # the numbers are kept.
        self._waiting: dict[str, deque[SpooledEvent | int]] = {key: deque() for key in held}
        self._kept_bytes = 0
        self._ready: deque[str] = deque()
        self.held: set[str] = set(held)
        """Keys whose event was nacked or returned."""
        self.confirmed: list[int] = []
        """Sequences that the spool may delete."""

    @property
    def is_idle(self) -> bool:
        """Whether no confirm is outstanding. Any thread may ask."""
        return not self._unconfirmed

    @property
    def unconfirmed(self) -> list[SpooledEvent]:
        return list(self._unconfirmed.values())

    def take(self) -> SpooledEvent | None:
        """The next event to publish, or None if there is none or the window is full."""
        careful = self._cursor < self._careful_until
        if len(self._unconfirmed) >= (1 if careful else self._window):
            return None
        while self._ready:
            key = self._ready.popleft()
            following = self._next_of(key)
            if following is not None:
                return following
            del self._waiting[key]
        while self._kept_bytes <= KEPT_BYTES and (self._read or self._fill()):
            event = self._read.popleft()
            self._cursor = event.sequence
            waiting = self._waiting.get(event.partition_key)
            if waiting is None:
                self._waiting[event.partition_key] = deque()
                return event
            waiting.append(self._keep(event))
        if not self._waiting and not self.confirmed:
            self._cursor = 0  # events may have been put back behind it
        return None

    def published(self, delivery_tag: int, event: SpooledEvent) -> None:
        self._unconfirmed[delivery_tag] = event

    def returned(self, message_id: str) -> None:
        """The broker could not route the event; it will ack it anyway, after this."""
        self._returned.add(message_id)

    def acked(self, delivery_tag: int, *, multiple: bool) -> list[SpooledEvent]:
        """Returns the events that the broker has now."""
        confirmed = []
        for event in self._settled(delivery_tag, multiple):
            if event.message_id in self._returned:
                self._returned.remove(event.message_id)
                self._hold(event)
                continue
            confirmed.append(event)
            self.confirmed.append(event.sequence)
            key = event.partition_key
            if self._waiting[key]:
                self._ready.append(key)
            else:
                del self._waiting[key]
        return confirmed

    def nacked(self, delivery_tag: int, *, multiple: bool) -> None:
        for event in self._settled(delivery_tag, multiple):
            self._returned.discard(event.message_id)
            self._hold(event)

    def retry_held(self) -> None:
        self._ready.extend(self.held)
        self.held.clear()

    def look_again(self) -> None:
        """The spool may have new events since it was read to its end."""
        self._may_have_more = True

    def has_missed(self) -> bool:
        """Whether events were put back behind those that were read. A key that is busy for long
        keeps this pipeline from ever returning to them; a new one finds them."""
        # Only this spool object removes and refuses events, so others can but lower the number.
        return self._cursor > 0 and self._spool.settled_by_others() < self._settled_by_others

    def read_on(self) -> None:
        """No confirm comes, as from a queue without a leader. Keeps only the numbers of the events
        that wait for one, so that the events behind them can be read."""
        for key in self._waiting:
            self._keep_numbers(key)

    def _settled(self, delivery_tag: int, multiple: bool) -> list[SpooledEvent]:
        tags = (
            list(takewhile(lambda tag: tag <= delivery_tag, self._unconfirmed))
            if multiple
            else [delivery_tag]
        )
        return [self._unconfirmed.pop(tag) for tag in tags]

    def _hold(self, event: SpooledEvent) -> None:
        self._keep_numbers(event.partition_key)
        self._waiting[event.partition_key].appendleft(event.sequence)
        self.held.add(event.partition_key)

    def _keep_numbers(self, key: str) -> None:
        waiting = self._waiting[key]
        numbers: list[int] = []
        while waiting and isinstance(kept := waiting[-1], SpooledEvent):
            waiting.pop()
            self._kept_bytes -= len(kept.body)
            numbers.append(kept.sequence)
        waiting.extend(reversed(numbers))

    def _keep(self, event: SpooledEvent) -> SpooledEvent | int:
        if event.partition_key in self.held:
            return event.sequence
        self._kept_bytes += len(event.body)
        return event

    def _next_of(self, key: str) -> SpooledEvent | None:
        waiting = self._waiting[key]
        while waiting:
            kept = waiting.popleft()
            if isinstance(kept, SpooledEvent):
                self._kept_bytes -= len(kept.body)
                return kept
            if (event := self._spool.event(kept)) is not None:
                return event
        return None

    def _fill(self) -> bool:
        if self._may_have_more:
            if self._cursor == 0:
                self._settled_by_others = self._spool.settled_by_others()
            found = self._spool.pending(after=self._cursor, limit=READ_AHEAD)
            if found:
                self._spool.sync()
            self._read.extend(found)
            self._may_have_more = len(found) == READ_AHEAD
        return bool(self._read)
