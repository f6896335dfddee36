"""The survey of all branches that viewers share, made anew while somebody looks."""

import logging
from concurrent.futures import Executor, Future
from threading import Event, Lock
from time import monotonic

from sqlalchemy import Engine

from mirrorfeed.consumer.branches.survey import Survey, survey
from mirrorfeed.consumer.web.shared import CHEAP_SECONDS
from mirrorfeed.consumer.web.trouble import in_words

EFFORT = 0.03
"""How much of the time a survey may be under way, while somebody looks."""
LATE_SECONDS = 60.0
"""How much later than it should be renewed one is shown at once: nobody has looked meanwhile."""
WAIT_SECONDS = 0.5
"""How long the viewer for whom it is made waits otherwise, before the last one is shown, or that
there is none yet. Others do not wait: where it takes longer, each would wait in vain."""

logger = logging.getLogger(__name__)


class Surveys:
    """Makes one at a time, and keeps the last."""

    def __init__(self, engine: Engine, threads: Executor) -> None:
        self._engine = engine
        self._threads = threads
        self._stopping = Event()
        self._lock = Lock()
        self._under_way: Future[None] | None = None
        self._latest: Survey | None = None
        self._made_at = float("-inf")
        self._took_seconds = 0.0

    def latest(self) -> Survey | None:
        """The last survey; None if there is none yet, and the first one takes long.

        Raises SQLAlchemyError if the first one failed.
        """
        with self._lock:
            late = monotonic() - self._made_at - self._took_seconds / EFFORT
            if late < 0:
                return self._latest
            if self._under_way is not None and not self._under_way.done():
                return self._latest
            under_way = self._under_way = self._threads.submit(self._make)
        if late > LATE_SECONDS or self._took_seconds < CHEAP_SECONDS:
            try:
                under_way.result(WAIT_SECONDS)
            except TimeoutError:
                pass
            except Exception:
                if self._latest is None:
                    raise
        return self._latest

    def stop(self) -> None:
        """Returns at once; a survey under way ends soon."""
        self._stopping.set()

    def _make(self) -> None:
        began_at = monotonic()
        try:
            made = survey(self._engine, self._stopping.is_set)
        except Exception as error:
            logger.info("the branches could not be surveyed", extra={"because": in_words(error)})
            raise
        if made is not None:
            with self._lock:
                self._latest, self._made_at = made, began_at
                self._took_seconds = monotonic() - began_at
