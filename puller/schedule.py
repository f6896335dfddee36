"""When each branch is mirrored next, and which one is next. Knows no clock: instants are given.

Within a process they are those of the monotonic clock, which nobody sets.
"""

import heapq
from collections.abc import Callable
from typing import NamedTuple

MAX_BACKOFF_SECONDS = 86_400.0
JITTER = 0.1
LEAST_SPREAD = 0.1
"""The part of an interval that a branch waits at least after its first mirror."""
CLOCK_TOLERANCE_SECONDS = 60.0
PAUSE_SECONDS = 900.0
MAX_PAUSE_SECONDS = 6 * 3600.0

Draw = Callable[[float, float], float]
"""A random number between two, as `random.uniform` draws it."""


def wait_after(interval_seconds: float, failures: int, *, is_first: bool, draw: Draw) -> float:
    """How long to wait after an attempt, in seconds.

    `failures` is how many attempts in a row have failed: the interval doubles with each, up to a
    day, or to the interval itself if that is longer. After its first mirror (`is_first`) a branch
    waits for a part of the interval: a new list is mirrored in one go, and would be for ever.
    """
    if failures == 0 and is_first:
        return interval_seconds * draw(LEAST_SPREAD, 1.0)
    return _longest(interval_seconds, failures) * draw(1.0 - JITTER, 1.0 + JITTER)


def _longest(interval_seconds: float, failures: int) -> float:
    longest = max(MAX_BACKOFF_SECONDS, interval_seconds)
    return min(interval_seconds * 2.0 ** min(failures, 32), longest)


class Known(NamedTuple):
    """What is stored of a branch's schedule, by the clock on the wall."""

    due_at: float
    attempted_at: float


def due_by_the_clock(
    known: Known | None, now: float, interval_seconds: float, failures: int, draw: Draw
) -> Known:
    """When a branch is due that was last attempted by another process, or by this one before its
    interval was changed.

    A new branch is due now. If the clock was set back since (the last attempt lies in the future),
    the wait begins anew, spread over the interval. No wait is longer than it would be had the last
    attempt ended now: so a clock that was ahead for a while stops nothing.
    """
    if known is None:
        return Known(now, 0.0)
    if known.attempted_at > now + CLOCK_TOLERANCE_SECONDS:
        return Known(now + interval_seconds * draw(0.0, 1.0), now)
    latest = known.attempted_at + _longest(interval_seconds, failures) * (1.0 + JITTER)
    return Known(min(known.due_at, latest), known.attempted_at)


def pause_after(pauses: int) -> float:
    """How long a host is left alone that has said for the `pauses`-th time in a row that it is
    asked too often, in seconds."""
    return min(PAUSE_SECONDS * 2.0 ** min(pauses - 1, 32), MAX_PAUSE_SECONDS)


class _Host:
    """The branches of one host."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, int]] = []
        self.running = 0
        self.paused_until = 0.0


class Queue:
    """Who is next: the branch that has been due for longest, of a host that has a free place and is
    not paused.

    A branch is in it once, or is being mirrored, or neither: so there are never two attempts of
    one, and what it missed meanwhile is one attempt. Every operation takes logarithmic time.
    """

    def __init__(self, per_host: int) -> None:
        """At most `per_host` branches of a host are mirrored at once. The empty host is this one:
        it has no limit."""
        self._per_host = per_host
        self._waiting: dict[int, tuple[float, str]] = {}
        self._running: dict[int, str] = {}
        self._hosts: dict[str, _Host] = {}
        self._ready: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def is_running(self, branch_id: int) -> bool:
        return branch_id in self._running

    def put(self, branch_id: int, host: str, due_at: float) -> None:
        """The branch is due then, whatever was said before. One that is being mirrored must be
        `done` first."""
        self._waiting[branch_id] = due_at, host
        of_host = self._hosts.setdefault(host, _Host())
        heapq.heappush(of_host.waiting, (due_at, branch_id))
        self._announce(host)

    def remove(self, branch_id: int) -> None:
        self._waiting.pop(branch_id, None)

    def due_at(self, branch_id: int) -> float | None:
        """None if it does not wait."""
        entry = self._waiting.get(branch_id)
        return entry[0] if entry else None

    def due_times(self) -> dict[int, float]:
        """When each branch that waits is due."""
        return {branch_id: at for branch_id, (at, _) in self._waiting.items()}

    def count_due(self, now: float) -> int:
        """How many are due by then."""
        return sum(at <= now for at, _ in self._waiting.values())

    def take(self, now: float) -> int | None:
        """The branch that is next, which counts as being mirrored from now on; None if none can be
        mirrored now."""
        while self._ready and self._ready[0][0] <= now:
            at, host = heapq.heappop(self._ready)
            if (current := self._ready_at(host)) is None:
                continue
            if current != at:
                heapq.heappush(self._ready, (current, host))
                continue
            of_host = self._hosts[host]
            _, branch_id = heapq.heappop(of_host.waiting)
            del self._waiting[branch_id]
            self._running[branch_id] = host
            of_host.running += 1
            self._announce(host)
            return branch_id
        return None

    def next_at(self) -> float | None:
        """When `take` may have something; None if that depends on `done` or `put`."""
        while self._ready:
            at, host = self._ready[0]
            current = self._ready_at(host)
            if current == at:
                return at
            heapq.heappop(self._ready)
            if current is not None:
                heapq.heappush(self._ready, (current, host))
        return None

    def done(self, branch_id: int) -> None:
        """The branch is not being mirrored any more, and does not wait."""
        host = self._running.pop(branch_id)
        self._hosts[host].running -= 1
        self._announce(host)

    def pause(self, host: str, until: float) -> None:
        """Starts nothing of the host before then. What runs goes on."""
        self._hosts.setdefault(host, _Host()).paused_until = until
        self._announce(host)

    def is_paused(self, host: str, now: float) -> bool:
        return host in self._hosts and self._hosts[host].paused_until > now

    def _ready_at(self, host: str) -> float | None:
        """When the host's first branch can be mirrored; None without one, or without a place."""
        of_host = self._hosts[host]
        waiting = of_host.waiting
        while waiting and self._waiting.get(waiting[0][1]) != (waiting[0][0], host):
            heapq.heappop(waiting)  # was removed, put elsewhere or put again
        if not waiting or (host and of_host.running >= self._per_host):
            return None
        return max(waiting[0][0], of_host.paused_until)

    def _announce(self, host: str) -> None:
        """An entry that turns out to be old is dropped or renewed when it is looked at."""
        if (at := self._ready_at(host)) is not None:
            heapq.heappush(self._ready, (at, host))
