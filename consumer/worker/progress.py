"""What a worker is doing. The threads that do the work write it down; others read it."""

from collections.abc import Collection
from time import monotonic

from mirrorfeed.consumer.health import BATCH_SECONDS, LOOP_SECONDS, Report, Wait
from mirrorfeed.consumer.worker.counts import Counts


class Spell:
    """Something that goes on until it ends. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._state: tuple[str, float] | None = None

    def goes_on(self, what: str) -> None:
        began_at = monotonic() if self._state is None else self._state[1]
        self._state = what, began_at

    def ends(self) -> None:
        self._state = None

    def wait(self) -> Wait | None:
        """What it is, and for how long; None if it has ended."""
        state = self._state
        return None if state is None else Wait(state[0], monotonic() - state[1])


class Progress:
    """Of one worker, over all its sessions."""

    def __init__(self) -> None:
        self.outage = Spell()
        """No session can begin. By the worker's own thread."""
        self.retry = Spell()
        """The batch in hand cannot be applied. By the applier thread."""
        self.membership = Spell()
        """The table of workers cannot be written. By the thread that writes it."""
        self.aside = Spell()
        """Something waits aside. By the applier thread."""
        self.counts = Counts()
        """What it has done."""
        self._batch_began_at: float | None = None
        self._turned_at = monotonic()
        self._settled: dict[str, int] = {}
        self._moved_at: dict[str, float] = {}

    def report(self, subscribed: Collection[str], *, is_connected: bool) -> Report:
        """How it is now. From any thread."""
        now = monotonic()
        began_at = self._batch_began_at
        return Report(
            is_connected=is_connected,
            turned_seconds=max(0.0, now - self._turned_at),
            batch_seconds=None if began_at is None else now - began_at,
            waits=self.outage.wait() or self.retry.wait() or self.membership.wait(),
            aside=self.aside.wait(),
            settled=self._settled.copy(),
            unmoved_seconds={queue: now - self._moved_at.get(queue, now) for queue in subscribed},
        )

    def between_sessions(self) -> None:
        """No I/O loop turns: servers are tried, which may take minutes. By the worker's thread."""
        self._turned_at = monotonic() + BATCH_SECONDS - LOOP_SECONDS

    def turned(self) -> None:
        """The I/O loop turns. By the I/O thread, as the next two are."""
        self._turned_at = monotonic()

    def settled(self, queue: str, count: int) -> None:
        """So many messages of the queue are settled."""
        self._settled[queue] = self._settled.get(queue, 0) + count
        self._moved_at[queue] = monotonic()

    def has_moved(self, queue: str) -> None:
        """Nothing waits in the queue, and nothing of it is in hand; or it is a new subscription."""
        self._moved_at[queue] = monotonic()

    def batch_began(self) -> None:
        """By the applier thread."""
        self._batch_began_at = monotonic()

    def batch_ended(self, size: int) -> None:
        """Of so many messages."""
        began_at, self._batch_began_at = self._batch_began_at, None
        if began_at is not None:
            self.counts.batch_ended(size, monotonic() - began_at)
