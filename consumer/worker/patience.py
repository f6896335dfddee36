"""Retrying in place what goes away by itself."""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)

from mirrorfeed.consumer.database import first_line
from mirrorfeed.consumer.errors import DatabaseUnavailable
from mirrorfeed.consumer.worker.progress import Spell
from mirrorfeed.contract.outage import Outage

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Patience:
    """Calls functions until they succeed, as after a deadlock or a database restart. What the
    database raises is raised only after `timeout_seconds`, or once `closing` is set.

    The log says that `what` is away. For one thread.
    """

    def __init__(
        self,
        what: str,
        closing: threading.Event,
        timeout_seconds: float,
        retried: Callable[[], None],
        retrying: Spell | None = None,
    ) -> None:
        """`retried` is called for each new attempt; `retrying` is told what keeps a function from
        succeeding."""
        self._retried = retried
        self._retrying = retrying or Spell()
        self._outage = Outage(logger, what)
        self._retry = Retrying(
            retry=retry_if_exception_type((DBAPIError, DatabaseUnavailable)),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=stop_any(stop_after_delay(timeout_seconds), stop_when_event_set(closing)),
            sleep=sleep_using_event(closing),
            before_sleep=self._log,
            reraise=True,
        )

    def __call__(self, do: Callable[..., T], *arguments: object) -> T:
        done = self._retry(do, *arguments)
        self._outage.is_over()
        self._retrying.ends()
        return done

    def _log(self, state: RetryCallState) -> None:
        self._retried()
        error = state.outcome.exception() if state.outcome else None
        because = first_line(error) if isinstance(error, DBAPIError) else str(error)
        self._outage.goes_on(because)
        self._retrying.goes_on(because)
