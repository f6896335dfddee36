"""What pages share: whoever asks first reads, and others get the same for a while.

What is expensive to read is kept the longer, so that however many look, and at however much, the
worker keeps its processors.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from threading import Lock
from time import monotonic
from typing import Any, TypeVar

from mirrorfeed.consumer.web.trouble import in_words

MOST_ENTRIES = 200
CHEAP_SECONDS = 0.05
"""What took less to read is read again rather than shown old."""
EFFORT = 0.005
"""How much of its time one reading may be under way."""
MOST_SECONDS = 60.0
"""How long anything is kept, however expensive it is."""
GRACE_SECONDS = 15.0
"""How much longer than that something is shown while it is read again."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Shared:
    """Results by what they are of. However many ask for one at a time, it is read once."""

    def __init__(self, threads: Executor) -> None:
        """`threads` read what is getting old while a page still shows it."""
        self._threads = threads
        self._lock = Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def get(self, key: Hashable, read: Callable[[], T], *, fresh_seconds: float) -> T:
        """What `read` gave less than `fresh_seconds` ago, or longer if it is so expensive that
        EFFORT demands it; else what it gives now. What is little older is given at once if it was
        not cheap, and read again meanwhile. With 0, what it gives now in any case.

        Raises what `read` raises.
        """
        entry = self._entry(key)
        age, kept_seconds = monotonic() - entry.read_at, entry.kept_seconds(fresh_seconds)
        if age < kept_seconds:
            return entry.value  # type: ignore[no-any-return]
        if (
            kept_seconds > 0
            and age < kept_seconds + GRACE_SECONDS
            and entry.took_seconds >= CHEAP_SECONDS
        ):
            value = entry.value
            if entry.lock.acquire(blocking=False):
                entry.lock.release()
                self._threads.submit(self._renew, entry, read, fresh_seconds)
            return value  # type: ignore[no-any-return]
        with entry.lock:
            if monotonic() - entry.read_at >= entry.kept_seconds(fresh_seconds):
                entry.renew(read)
            return entry.value  # type: ignore[no-any-return]

    def forget(self) -> None:
        """Whoever asks next reads again: something has been changed from here."""
        with self._lock:
            self._entries.clear()

    def _entry(self, key: Hashable) -> "_Entry":
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            if len(self._entries) > MOST_ENTRIES:
                self._entries.popitem(last=False)
            return entry

    @staticmethod
    def _renew(entry: "_Entry", read: Callable[[], Any], fresh_seconds: float) -> None:
        with entry.lock:
            if monotonic() - entry.read_at < entry.kept_seconds(fresh_seconds):
                return
            try:
                entry.renew(read)
            except Exception as error:
                # Nobody waits for it here; once it is too old, whoever asks gets the error.
                logger.info("a reading could not be renewed", extra={"because": in_words(error)})


class _Entry:
    def __init__(self) -> None:
        self.lock = Lock()
        self.value: Any = None
        self.read_at = float("-inf")
        self.took_seconds = 0.0
        self._takes_seconds = 0.0

    def kept_seconds(self, fresh_seconds: float) -> float:
        """How long the value is shown before it is read again."""
        if not fresh_seconds:
            return 0.0
        return max(fresh_seconds, min(self._takes_seconds / EFFORT, MOST_SECONDS))

    def renew(self, read: Callable[[], Any]) -> None:
        began_at = monotonic()
        self.value = read()
        self.read_at = began_at
        # What was slow once, such as the first time, need not be so again.
        before, self.took_seconds = self.took_seconds, monotonic() - began_at
        self._takes_seconds = min(before, self.took_seconds)
