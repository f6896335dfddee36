"""What takes a while to find out, kept at hand for those who must not wait for it."""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Generic, Self, TypeVar

from mirrorfeed.contract.outage import Outage

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Cached(Generic[T]):
    """Asks again and again, in a thread of its own, while it is used as a context."""

    def __init__(
        self, what: str, read: Callable[[], T], *, interval_seconds: float, max_age_seconds: float
    ) -> None:
        """`read` may take long, and may raise: then the log says that `what` is away, and what it
        said before still counts, until that is older than `max_age_seconds`."""
        self._outage = Outage(logger, what)
        self._read = read
        self._interval_seconds = interval_seconds
        self._max_age_seconds = max_age_seconds
        self._latest: tuple[float, T] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cached", daemon=True)

    def latest(self) -> T | None:
        """The latest answer; None if there is none, or none that is fresh enough. From any thread,
        at once."""
        latest = self._latest
        if latest is None or monotonic() - latest[0] > self._max_age_seconds:
            return None
        return latest[1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        """Does not wait for a question that nobody answers."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._latest = monotonic(), self._read()
                self._outage.is_over()
            except Exception as error:  # it may answer next time
                self._outage.goes_on(str(error))
            self._ended.wait(self._interval_seconds)
