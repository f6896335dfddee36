"""What a worker has done since it began. Plain numbers, raised once a batch by the threads that do
the work, and read by whoever scrapes them."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from mirrorfeed.consumer.apply.applier import Tally
from mirrorfeed.consumer.worker.inbox import Subscription
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.wire import TYPES

DURATION_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
SIZE_BOUNDS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
DELAY_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0),
)
LONGEST_DELAY = timedelta(days=366)
"""A longer one counts as this in the sum: somebody may have made up a time."""
SAMPLED = 50
OTHER = "other"
"""A type that no event has: what a publisher writes there must not become a label."""


class Outcome(StrEnum):
    """What became of an event."""

    APPLIED = "applied"
    BURIED = "buried"


class End(StrEnum):
    """What ended a session."""

    TOLD = "told"
    BROKER = "broker"
    DATABASE = "database"
    BUG = "bug"


class Histogram:
    """How many values lie up to each bound, and their sum. Written by one thread at a time."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Between two bounds each; the last is for what is above all of them."""
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_seconds_since(self, instants: Sequence[datetime], now: datetime) -> None:
        """How long ago each of them was.

        They are sorted, and the bounds are looked up in them: to turn each into a number would cost
        five times as much. Of many, some stand for their neighbours in the sum."""
        ordered = sorted(instants)
        older = 0
        for place, bound in reversed(list(enumerate(self.bounds, start=1))):
            before = bisect_left(ordered, now - timedelta(seconds=bound))
            self.counts[place] += before - older
            older = before
        self.counts[0] += len(ordered) - older
        stride = max(1, len(ordered) // SAMPLED)
        sample = ordered[stride // 2 :: stride]
        delays = sum([min(now - each, LONGEST_DELAY) for each in sample], timedelta())
        # A sum that shrank, because a puller's clock is ahead, would look like a restart.
        self.sum += max(0.0, delays.total_seconds()) * len(ordered) / max(1, len(sample))


class Counts:
    """Of one worker, over all its sessions."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        """The latest of each queue. By the I/O thread, as the next one."""
        self.redeliveries = 0
        self.batch_seconds = Histogram(DURATION_BOUNDS)
        """By the applier thread, as the next one."""
        self.batch_events = Histogram(SIZE_BOUNDS)
        self.sessions = Counter(dict.fromkeys(End, 0))
        """By the worker's own thread."""
        self.events = Counter(dict.fromkeys(((t, o) for t in (*TYPES, OTHER) for o in Outcome), 0))
        """By type and outcome. By the applier and burier threads, as all that follow."""
        self.buried = Counter(dict.fromkeys(Reason, 0))
        self.event_delay_seconds = Histogram(DELAY_BOUNDS)
        self.last_commit_at: datetime | None = None
        self.database_retries = 0
        self._lock = threading.Lock()

    def subscribed(self, queue: str, prefetch: int) -> Subscription:
        """A new subscription, which goes on counting where the one before ended."""
        before = self.subscriptions.get(queue)
        received = before.received if before else 0
        subscription = Subscription(queue, prefetch, received=received, settled=received)
        self.subscriptions[queue] = subscription
        return subscription

    def batch_ended(self, size: int, seconds: float) -> None:
        self.batch_events.add(size)
        self.batch_seconds.add(seconds)

    def committed(self, tally: Tally) -> None:
        """Just now."""
        now = datetime.now(UTC)
        with self._lock:
            self.last_commit_at = now
            for event, count in tally.applied_types.items():
                self.events[event.TYPE, Outcome.APPLIED] += count
            for name, count in tally.buried_types.items():
                self.events[name if name in TYPES else OTHER, Outcome.BURIED] += count
            self.buried.update(tally.buried)
            self.event_delay_seconds.add_seconds_since(tally.happened_at, now)

    def retried(self) -> None:
        with self._lock:
            self.database_retries += 1
