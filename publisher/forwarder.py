"""Spool -> broker, for as long as there is a process to do it.

One thread forwards for all processes that use a spool: the one that holds the lock file beside it.
Where that process ends, another takes over.
"""

import atexit
import fcntl
import logging
import os
import threading
from pathlib import Path
from weakref import WeakSet

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_random_exponential,
)

from publisher.errors import SpoolError
from publisher.link import Link, connection_parameters
from publisher.spool import Spool

WINDOW = 1000
"""Unconfirmed events at once; past a few hundred more does not make a broker faster."""
MAX_BACKOFF_SECONDS = 15.0
TAKEOVER_SECONDS = 0.5
STOP_TIMEOUT_SECONDS = 2.0

logger = logging.getLogger(__name__)


class LinkFailed(Exception):
    """A connection to the broker ended without having been of use."""


class Forwarder:
    """Sends what a spool holds, in a daemon thread of this process and of its forked children."""

    def __init__(self, spool_path: Path, amqp_url: str, *, window: int = WINDOW) -> None:
        """Raises ValueError for a URL that cannot be read. Nothing is opened before `wake`."""
        self._spool_path = spool_path
        self._parameters = connection_parameters(amqp_url)
        self._window = window
        self._lock_file = ForwarderLock(spool_path)
        self._forget_thread()
        _forwarders.add(self)

    def wake(self) -> None:
        """There may be something to send. Starts the thread where none runs."""
        if self._thread is None:
            self._start()
        link = self._link
        if link is not None:
            link.wake()

    def stop(self) -> None:
        """Ends the thread; what is not confirmed stays in the spool."""
        self._stopping.set()
        link = self._link
        if link is not None:
            link.close()
        self.join(STOP_TIMEOUT_SECONDS)
        atexit.unregister(self.stop)

    @property
    def reaches_broker(self) -> bool:
        """Whether the latest connection, which may be over, got as far as an open channel."""
        return self._link is not None and self._link.was_open

    def join(self, timeout_seconds: float) -> None:
        """Waits for the thread to end."""
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _forget_thread(self) -> None:
        self._start_lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._link: Link | None = None
        self._careful_until = 0

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="mirrorfeed forwarder", daemon=True
                )
                self._thread.start()
                atexit.register(self.stop)

    def _run(self) -> None:
        retry = Retrying(
            retry=retry_if_exception_type((LinkFailed, SpoolError)),
            wait=wait_random_exponential(multiplier=0.5, max=MAX_BACKOFF_SECONDS),
            stop=stop_when_event_set(self._stopping),
            sleep=sleep_using_event(self._stopping),
            before_sleep=_log_failure,
            retry_error_callback=lambda _: None,
        )
        try:
            while not self._stopping.is_set():
                if self._lock_file.acquire():
                    retry(self._use_one_link)
                else:
                    self._stopping.wait(TAKEOVER_SECONDS)
        finally:
            self._lock_file.release()

    def _use_one_link(self) -> None:
        """Returns once a link that was of use has ended; raises LinkFailed for one that was not."""
        spool = Spool(self._spool_path, durable=False)
        try:
            link = Link(
                self._parameters,
                spool,
                window=self._window,
                careful_until=self._careful_until,
            )
            self._link = link
            if self._stopping.is_set():
                link.close()
            link.run()
            if link.error is None:
                return
            if link.was_refused and link.unconfirmed:
                self._single_out(link, spool)
            elif link.was_useful:
                logger.warning("lost the broker: %s", link.error)
            else:
                raise LinkFailed(repr(link.error))
        finally:
            spool.close()

    def _single_out(self, link: Link, spool: Spool) -> None:
        """The broker will never take one of the unconfirmed events, and does not say which."""
        if len(link.unconfirmed) == 1:
            event = link.unconfirmed[0]
            spool.refuse(event.sequence, str(link.error))
            logger.error(
                "set aside event %d, which the broker refused: %s", event.sequence, link.error
            )
        else:
            self._careful_until = max(event.sequence for event in link.unconfirmed)


class ForwarderLock:
    """An exclusive lock on a file beside the spool, held by one process at a time."""

    def __init__(self, spool_path: Path) -> None:
        self._path = spool_path.with_name(spool_path.name + ".forwarder")
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Whether this process forwards now. Raises OSError where the file cannot be opened."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _log_failure(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait_seconds = state.next_action.sleep if state.next_action else 0.0
    logger.warning("cannot send: %s; trying again in %.1f s", error, wait_seconds)


_forwarders: WeakSet[Forwarder] = WeakSet()


def _after_fork_in_child() -> None:
    """Threads do not survive a fork; an inherited lock would outlive the parent unused."""
    for forwarder in list(_forwarders):
        forwarder._lock_file.release()
        forwarder._forget_thread()


os.register_at_fork(after_in_child=_after_fork_in_child)
