"""Spool -> broker, for as long as there is a process to do it.

One thread forwards for all processes that use a spool: the one that holds the lock file beside it.
If that process ends, another one takes over.
"""

import logging
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from weakref import WeakSet

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_random_exponential,
)

from mirrorfeed.amqp.connections import (
    PRECONDITION_FAILED,
    Addresses,
    after_each_round,
    why_unreachable,
)
from mirrorfeed.contract.outage import Outage
from mirrorfeed.contract.tracing import Spans
from mirrorfeed.publisher.forward.heartbeat import HEARTBEAT_SECONDS, Heartbeats
from mirrorfeed.publisher.forward.lock import ForwarderLock
from mirrorfeed.publisher.forward.pipeline import Pipeline
from mirrorfeed.publisher.forward.session import PublishingSession
from mirrorfeed.publisher.forward.watch import SpoolWatch
from mirrorfeed.publisher.kept import KEEP_LIMIT_BYTES, KEEP_SECONDS, KeptEvents
from mirrorfeed.publisher.spool import Spool, SpooledEvent

WINDOW = 1000
"""Unconfirmed events at once; beyond a few hundred, more do not make a broker faster."""
MAX_BACKOFF_SECONDS = 15.0
RECONNECT_SECONDS = 0.2
"""How soon to reconnect after a useful connection, or to try for the lock again."""
STOP_TIMEOUT_SECONDS = 2.0
LOOP_SECONDS = 120.0
"""A forwarder whose loop has not turned for this long hangs. It waits 30 s for a spool that another
process keeps locked, and up to 15 s between two connections."""
POLL_SECONDS = 0.1
"""How often to check whether another process's forwarder removed events from the spool."""

logger = logging.getLogger(__name__)


class SessionFailed(Exception):
    """A connection to the broker ended without having been useful."""


class Forwarder:
    """Sends what is in a spool, in a daemon thread of this process and of its forked children."""

    def __init__(
        self,
        spool_path: Path,
        amqp_urls: str,
        *,
        window: int = WINDOW,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        keep_seconds: float = KEEP_SECONDS,
        keep_limit_bytes: int = KEEP_LIMIT_BYTES,
        gather_seconds: float = 0.0,
        spans: Spans | None = None,
    ) -> None:
        """Each connection uses the next URL in the list. If the spool is quiet for
        `heartbeat_seconds`, a heartbeat is sent; 0 means never. What is confirmed is kept for
        `keep_seconds` within `keep_limit_bytes`, so that it can be sent again. Events of calls are
        gathered for `gather_seconds`. What is sent is told to `spans`.

        Raises ValueError for a URL that cannot be read. Nothing is opened before `wake`."""
        self._spool_path = Path(os.path.realpath(spool_path))
        self._addresses = Addresses(amqp_urls, name="mirrorfeed publisher")
        self._window = window
        self._heartbeats = Heartbeats(self._spool_path, heartbeat_seconds)
        self._keep_seconds = keep_seconds
        self._keep_limit_bytes = keep_limit_bytes
        self._gather_seconds = gather_seconds
        self._spans = spans
        self._lock_file = ForwarderLock(self._spool_path)
        self._outage = Outage(logger, "the broker")
        self._forget_thread()
        _forwarders.add(self)

    def wake(self) -> None:
        """There may be something to send. Starts the thread if it is not running."""
        if self._thread is None:
            self._start()
        session = self._session
        if session is not None:
            session.wake()

    def stop(self) -> None:
        """Ends the thread; unconfirmed events stay in the spool."""
        self._stopping.set()
        session = self._session
        if session is not None:
            session.close()
        self.join(STOP_TIMEOUT_SECONDS)

    def join(self, timeout_seconds: float) -> None:
        """Waits for the thread to end, unless called in it, as by the garbage collector."""
        if self._thread not in (None, threading.current_thread()):
            self._thread.join(timeout_seconds)

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def holds_spool(self) -> bool:
        """Whether this process is the one that forwards the spool."""
        return self._lock_file.is_held

    @property
    def who_holds_spool(self) -> str:
        """The process that forwards the spool, if it is another one, in words."""
        return _process(self._lock_file.holder)

    @property
    def reaches_broker(self) -> bool:
        """Whether the latest connection got as far as an open channel, even if it is over now.
        While the next one is being opened, the one before it still counts."""
        session = self._session
        return self._reached_broker or (session is not None and session.was_open)

    def why_not_live(self) -> str | None:
        """Why only a restart would help; None if it is live. From any thread, at once."""
        still_seconds = monotonic() - self._turned_at
        if still_seconds > LOOP_SECONDS:
            return f"its loop has hung for {still_seconds:.0f} s"
        return None

    def why_not_ready(self) -> str | None:
        """Why it cannot send; None if it can. From any thread, at once."""
        return None if self.is_connected else self._waits or "it is connecting to the broker"

    @property
    def is_connected(self) -> bool:
        """Whether events can be sent right now."""
        session = self._session
        return session is not None and session.is_open

    @property
    def rests(self) -> bool:
        """Whether it is connected, has nothing to do, and is told when that changes."""
        session = self._session
        return session is not None and session.is_open and session.rests

    @property
    def held_keys(self) -> int:
        """Of how many partition keys the broker did not take an event. From any thread, at once."""
        session = self._session
        return 0 if session is None else session.held_keys

    @property
    def removals(self) -> int:
        """How often this process removed events from the spool, or stopped forwarding it."""
        return self._removals

    def wait_for_removal(self, *, seen: int, timeout_seconds: float) -> None:
        """Returns once `removals` differs from `seen`, or earlier, because other processes send no
        signal. Meanwhile, what is confirmed is removed at once."""
        if not self.holds_spool:
            timeout_seconds = min(timeout_seconds, POLL_SECONDS)
        with self._removed:
            self._awaiting += 1
            session = self._session
            if session is not None:
                session.hasten()
            try:
                self._removed.wait_for(
                    lambda: self._removals != seen, min(timeout_seconds, threading.TIMEOUT_MAX)
                )
            finally:
                self._awaiting -= 1

    def _note_removal(self) -> None:
        with self._removed:
            self._removals += 1
            self._removed.notify_all()

    def _forget_thread(self) -> None:
        self._start_lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._session: PublishingSession | None = None
        self._reached_broker = False
        self._careful_until = 0
        self._refused_keys: set[str] = set()
        self._names_user = True
        self._said = ""
        self._is_unwatched = False
        self._waits = ""
        self._turned_at = monotonic()
        self._removed = threading.Condition()
        self._removals = 0
        self._awaiting = 0
        """How many threads wait for a removal."""

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="mirrorfeed forwarder", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the event is safe, and the next call tries again
                logger.warning("cannot send yet: %s", error)
            else:
                self._thread = thread

    def _run(self) -> None:
        # The spool is safe whatever happens, and must be sent some day: never give up.
        retry = Retrying(
            retry=retry_if_exception_type(Exception),
            wait=after_each_round(
                self._addresses.count,
                wait_random_exponential(multiplier=0.5, max=MAX_BACKOFF_SECONDS),
            ),
            stop=stop_when_event_set(self._stopping),
            sleep=sleep_using_event(self._stopping),
            before_sleep=self._log_failure,
            retry_error_callback=lambda _: None,
        )
        try:
            while not self._stopping.wait(RECONNECT_SECONDS):
                self._turned()
                retry(self._forward)
        finally:
            self._lock_file.release()
            self._note_removal()

    def _turned(self) -> None:
        self._turned_at = monotonic()

    def _log_failure(self, state: RetryCallState) -> None:
        self._turned()
        self._is_away(str(state.outcome and state.outcome.exception()))

    def _is_away(self, because: str) -> None:
        self._waits = because
        self._outage.goes_on(because)

    def _forward(self) -> None:
        """Returns at once if another process forwards or there is no spool, else when a useful
        session has ended. Raises SessionFailed if the session was not useful."""
        if not self._spool_path.exists():
            return self._say(f"there is no spool {self._spool_path} yet; waiting for one")
        if not self._lock_file.acquire():
            return self._say(f"{self.who_holds_spool} forwards this spool; waiting for it to end")
        with ExitStack() as stack:
            spool = Spool(self._spool_path, appends=False, on_taken_away=self._note_removal)
            stack.callback(spool.close)
            kept = KeptEvents(
                self._spool_path,
                keep_seconds=self._keep_seconds,
                limit_bytes=self._keep_limit_bytes,
            )
            stack.callback(kept.close)
            watch = self._new_watch()
            if watch is not None:
                stack.callback(watch.close)
            pipeline = Pipeline(
                spool,
                window=self._window,
                careful_until=self._careful_until,
                held=self._refused_keys,
            )
            address = next(self._addresses)
            self._session = session = PublishingSession(
                address,
                spool,
                pipeline,
                kept,
                self._outage.is_over,
                on_turn=self._turned,
                on_poll=self._heartbeats.beat_if_quiet,
                is_at_its_path=lambda: self._lock_file.is_at_its_path() and spool.is_at_its_path(),
                is_awaited=lambda: self._awaiting > 0,
                watch=watch,
                gather_seconds=self._gather_seconds,
                names_user=self._names_user,
                spans=self._spans,
            )
            if self._stopping.is_set():
                session.close()
            session.run()
            self._reached_broker = session.was_open
            if session.error is None:
                return None
            if session.refused_user:
                self._names_user = False
                logger.warning("sending without the user's name: %s", session.error)
                return None
            if session.refusal_code is not None:
                self._learn(session.refusal_code, pipeline.unconfirmed, spool, session.error)
            because = why_unreachable(address, session.error)
            if session.is_not_set_up:
                because += ": mirror-consumer init sets it up"
            if not session.was_useful and session.refusal_code != PRECONDITION_FAILED:
                raise SessionFailed(because)
            self._is_away(because)
        return None

    def _new_watch(self) -> SpoolWatch | None:
        """None, and a word in the log once, if nothing can be watched."""
        try:
            return SpoolWatch(self._spool_path)
        except OSError as error:
            if not self._is_unwatched:
                logger.info("the spool cannot be watched, so it is looked at often: %s", error)
            self._is_unwatched = True
            return None

    def _say(self, waits: str) -> None:
        """Once, not at each try."""
        if waits != self._said:
            logger.info("%s", waits)
        self._said = self._waits = waits

    def _learn(
        self, code: int, unconfirmed: list[SpooledEvent], spool: Spool, error: BaseException
    ) -> None:
        """The broker closed the channel because of one of the unconfirmed events, without saying
        which.

        They are sent again one by one. An event that the broker will never take is then set aside;
        one that it does not allow may be allowed later, so its key is held while all others go on.
        """
        if len(unconfirmed) > 1:
            self._careful_until = max(event.sequence for event in unconfirmed)
        elif unconfirmed and code == PRECONDITION_FAILED:
            spool.refuse(unconfirmed[0].sequence, str(error))
            logger.error("set aside event %d: %s", unconfirmed[0].sequence, error)
        elif unconfirmed:
            self._refused_keys.add(unconfirmed[0].partition_key)


def _process(number: int | None) -> str:
    return "a process that cannot be seen from here" if number is None else f"process {number}"


_forwarders: WeakSet[Forwarder] = WeakSet()


def _after_fork_in_child() -> None:
    """Threads do not survive a fork; an inherited lock would outlive the parent unused."""
    for forwarder in list(_forwarders):
        forwarder._lock_file.release()
        forwarder._forget_thread()


os.register_at_fork(after_in_child=_after_fork_in_child)
