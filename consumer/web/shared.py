"""What pages share: whoever asks first reads, and others get the same for a few seconds."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from threading import Lock
from time import monotonic
from typing import Any, TypeVar

MOST_ENTRIES = 200
CHEAP_SECONDS = 0.05
"""What took less to read is read again rather than shown old."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Shared:
    """Results by what they are of. However many ask for one at a time, it is read once."""

    def __init__(self, threads: Executor) -> None:
        """`threads` read what is getting old while a page still shows it."""
        self._threads = threads
        self._lock = Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def get(
        self,
        key: Hashable,
        read: Callable[[], T],
        *,
        fresh_seconds: float,
        usable_seconds: float = 0.0,
    ) -> T:
        """What `read` gave less than `fresh_seconds` ago, else what it gives now. What is older,
        but less than `usable_seconds` old, is given at once if it was not cheap, and read again
        meanwhile.

        Raises what `read` raises.
        """
        entry = self._entry(key)
        age = monotonic() - entry.read_at
        if age < fresh_seconds:
            return entry.value  # type: ignore[no-any-return]
        if age < usable_seconds and entry.took_seconds >= CHEAP_SECONDS:
            value = entry.value
            if entry.lock.acquire(blocking=False):
                entry.lock.release()
                self._threads.submit(self._renew, entry, read, fresh_seconds)
            return value  # type: ignore[no-any-return]
        with entry.lock:
            if monotonic() - entry.read_at >= fresh_seconds:
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
            if monotonic() - entry.read_at < fresh_seconds:
                return
            try:
                entry.renew(read)
            except Exception as error:
                # Nobody waits for it here; once it is too old, whoever asks gets the error.
                logger.info("a reading could not be renewed", extra={"because": str(error)})


class _Entry:
    def __init__(self) -> None:
        self.lock = Lock()
        self.value: Any = None
        self.read_at = float("-inf")
        self.took_seconds = 0.0

    def renew(self, read: Callable[[], Any]) -> None:
        began_at = monotonic()
        self.value = read()
        self.read_at = began_at
        self.took_seconds = monotonic() - began_at
