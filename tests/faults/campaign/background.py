"""What goes on beside a round, in a thread of its own."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background(ABC):
    """From `start` to `stop`. What it noted is valid once it is stopped."""

    def __init__(self, name: str, on_failure: Callable[[], object] = lambda: None) -> None:
        """`on_failure` is called at once if something goes wrong; `stop` says what it was."""
        self._on_failure = on_failure
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._working: Future[None] | None = None

    def start(self) -> None:
        self._working = self._threads.submit(self._work_or_fail)

    def stop(self) -> None:
        """Raises what ended it before."""
        self._stopping.set()
        self._threads.shutdown()
        if self._working is not None:
            self._working.result()

    @abstractmethod
    def _work(self) -> None:
        """Until `_stopping` is set."""

    def _work_or_fail(self) -> None:
        try:
            self._work()
        except BaseException:
            self._on_failure()
            raise
