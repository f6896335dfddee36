"""Which event may be published next: in order within a key, pipelined across keys.

A nack for one message does not stop the broker from taking the next. So a partition key has at
most one unconfirmed event, and a key whose event was nacked or returned is held until it is tried
again; all other keys go on. Nothing here does I/O but reading the spool.
"""

from collections import deque
from collections.abc import Collection
from itertools import takewhile

from publisher.spool import Spool, SpooledEvent

READ_AHEAD = 500


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
        """At most `window` events are unconfirmed at once; up to sequence `careful_until` only
        one, so that it is known which of them makes the broker close the channel. The keys `held`
        wait for `retry_held` from the beginning."""
        self._spool = spool
        self._window = window
        self._careful_until = careful_until
        self._read: deque[SpooledEvent] = deque()
        self._cursor = 0  # every event up to here was taken, or its key is busy
        self._unconfirmed: dict[int, SpooledEvent] = {}  # by delivery tag
        self._returned: set[str] = set()
        # A key is busy while one of its events is unconfirmed, held or ready to be published. Of
        # those seen meanwhile the first is kept, and where to look for more.
        self._busy = set(held)
        self._next: dict[str, SpooledEvent] = {}
        self._more: dict[str, int] = dict.fromkeys(held, 0)
        self._ready: deque[str] = deque()
        self.held: list[str] = list(held)
        """Keys whose event was nacked or returned."""
        self.confirmed: list[int] = []
        """Sequences that the spool may forget."""

    @property
    def unconfirmed(self) -> list[SpooledEvent]:
        return list(self._unconfirmed.values())

    def take(self) -> SpooledEvent | None:
        """The next event to publish, or None while there is none or the window is full."""
        careful = self._cursor < self._careful_until
        if len(self._unconfirmed) >= (1 if careful else self._window):
            return None
        while self._ready:
            key = self._ready.popleft()
            following = self._next.pop(key, None) or self._look_for_more(key)
            if following is not None:
                return following
            self._busy.remove(key)
        while self._read or self._fill():
            event = self._read.popleft()
            self._cursor = event.sequence
            key = event.partition_key
            if key not in self._busy:
                self._busy.add(key)
                return event
            if key not in self._next and key not in self._more:
                self._next[key] = event
            else:
                self._more.setdefault(key, event.sequence)
        if not self._busy and not self.confirmed:
            self._cursor = 0  # what was refused before may have been put back, behind it
        return None

    def published(self, delivery_tag: int, event: SpooledEvent) -> None:
        self._unconfirmed[delivery_tag] = event

    def returned(self, message_id: str) -> None:
        """The broker could not route the event; it will ack it all the same, after this."""
        self._returned.add(message_id)

    def acked(self, delivery_tag: int, *, multiple: bool) -> None:
        for event in self._settled(delivery_tag, multiple):
            if event.message_id in self._returned:
                self._returned.remove(event.message_id)
                self._hold(event)
                continue
            self.confirmed.append(event.sequence)
            key = event.partition_key
            if key in self._next or key in self._more:
                self._ready.append(key)
            else:
                self._busy.remove(key)

    def nacked(self, delivery_tag: int, *, multiple: bool) -> None:
        for event in self._settled(delivery_tag, multiple):
            self._returned.discard(event.message_id)
            self._hold(event)

    def retry_held(self) -> None:
        self._ready.extend(self.held)
        self.held.clear()

    def _settled(self, delivery_tag: int, multiple: bool) -> list[SpooledEvent]:
        tags = (
            list(takewhile(lambda tag: tag <= delivery_tag, self._unconfirmed))
            if multiple
            else [delivery_tag]
        )
        return [self._unconfirmed.pop(tag) for tag in tags]

    def _hold(self, event: SpooledEvent) -> None:
        self._next.pop(event.partition_key, None)
        self._more[event.partition_key] = event.sequence
        self.held.append(event.partition_key)

    def _look_for_more(self, key: str) -> SpooledEvent | None:
        first = self._more.pop(key, None)
        if first is None:
            return None
        event = self._spool.next_of_key(key, first=first, last=self._cursor)
        if event is not None:
            self._more[key] = event.sequence + 1
        return event

    def _fill(self) -> bool:
        self._read.extend(self._spool.pending(after=self._cursor, limit=READ_AHEAD))
        return bool(self._read)
