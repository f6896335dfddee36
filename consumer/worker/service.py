"""The worker service: runs one session after another, whatever happens to the servers."""

import logging
import math
import threading
import time

import msgspec
import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_any,
    stop_never,
    stop_when_event_set,
    wait_random_exponential,
)

from mirrorfeed.amqp.connections import (
    Addresses,
    BrokerUnavailable,
    after_each_round,
    broker_channel,
    why_unreachable,
)
from mirrorfeed.amqp.read_frames import tolerate_undecodable_headers
from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.ledger import fold, has_notes
from mirrorfeed.consumer.database import check_database, check_sessions, first_line, unavailable
from mirrorfeed.consumer.errors import DatabaseUnavailable, ServerUnavailable
from mirrorfeed.consumer.health import WorkerState, why_not_live, why_not_ready
from mirrorfeed.consumer.partitions.assignment import BEAT_SECONDS, Membership, Share
from mirrorfeed.consumer.partitions.layout import Layout, Stage, read_layout, unchanging_layout
from mirrorfeed.consumer.partitions.topology import ensure_topology
from mirrorfeed.consumer.worker.counts import End
from mirrorfeed.consumer.worker.progress import Progress
from mirrorfeed.consumer.worker.session import ConsumingSession
from mirrorfeed.consumer.worker.settings import Settings
from mirrorfeed.contract.outage import Outage

MAX_BACKOFF_SECONDS = 30.0
DRAIN_PATIENCE_SECONDS = 10.0
FOLD_SECONDS = 5.0
"""How often the ledger is folded, unless there is more than can be folded at once. An event that
comes meanwhile waits some milliseconds, and many notes cost hardly more than a few."""
LAST_BEAT_SECONDS = 2.0
"""How long the worker's end waits for a database that does not answer."""

logger = logging.getLogger(__name__)


class Worker:
    """Consumes until it is stopped or, if its settings say so, until the queues are empty."""

    def __init__(
        self,
        engine: Engine,
        addresses: Addresses,
        settings: Settings,
        *,
        share: Share | None,
        default_partitions: int,
    ) -> None:
        """Each session tries the next address. `default_partitions` applies if the database does
        not say yet how many partitions there are."""
        self._engine = engine
        self._addresses = addresses
        self._settings = settings
        self._default_partitions = default_partitions
        self._share = share
        self._applier = Applier(engine, settings.letters_per_hour)
        tolerate_undecodable_headers()
        self._stopping = threading.Event()
        self._session: ConsumingSession | None = None
        self.progress = Progress()
        self._beating: threading.Thread | None = None
        self._beat_error: Exception | None = None
        self._announced: ConsumingSession | None = None
        """The latest session that was seen to be connected."""
        self._has_news = threading.Event()
        """Set when there is something that the others should know at once."""
        self._has_ended = False
        self._outage = Outage(logger, "a server")
        self._beat_outage = Outage(logger, "the table of workers")
        self._fold_outage = Outage(logger, "the ledger's fold")
        self._is_drained = False

    def run(self) -> None:
        """A service keeps trying forever. A drain gives up after some seconds without a server.

        Raises BrokerUnavailable or ServerUnavailable if a drain gives up, SchemaMissing if
        `mirror-consumer init` was never run, CloseUnanswered if a connection does not end.
        """
        give_up = stop_after_delay(DRAIN_PATIENCE_SECONDS) if self._settings.drain else stop_never
        retry = Retrying(
            retry=retry_if_exception_type((BrokerUnavailable, ServerUnavailable)),
            wait=after_each_round(
                self._addresses.count,
                wait_random_exponential(multiplier=0.5, max=MAX_BACKOFF_SECONDS),
            ),
            stop=stop_any(stop_when_event_set(self._stopping), give_up),
            sleep=sleep_using_event(self._stopping),
            before_sleep=self._log_backoff,
            reraise=True,
        )
        try:
            while not self._stopping.is_set() and not self._is_drained:
                retry(self._run_session)
        except (BrokerUnavailable, ServerUnavailable):
            if not self._stopping.is_set():
                raise
        finally:
            self._stop_beating()
        if self._beat_error is not None:
            raise self._beat_error
        if self._is_drained:
            self._fold(self._stopping)

    def stop(self) -> None:
        """Ends `run` once the batch in hand is committed and acked. Call it from another thread."""
        self._stopping.set()
        session = self._session
        if session is not None:
            session.stop()

    def why_not_live(self) -> str | None:
        """Why only a restart would help; None if it is live. From any thread, at once."""
        return why_not_live(self.progress.report((), is_connected=False))

    def why_not_ready(self) -> str | None:
        """Why it does not do all that it should; None if it is ready. From any thread, at once."""
        session = self._session
        if session is None or not session.opened.is_set():
            report = self.progress.report((), is_connected=False)
            return why_not_ready(WorkerState("", frozenset(), frozenset(), report))
        if session.own is None:
            return "it does not know yet what to consume"
        subscribed = session.subscribed
        report = self.progress.report(subscribed, is_connected=True)
        return why_not_ready(WorkerState("", session.own, frozenset(subscribed), report))

    def _run_session(self) -> None:
        """Returns when a useful session has ended; raises if the session was not useful."""
        self.progress.between_sessions()
        check_database(self._engine)
        check_sessions(self._engine)
        self._applier.check()
        self._start_beating()
        address = next(self._addresses)
        layout = self._declared_layout(address)
        session = ConsumingSession(
            address, layout, self._settings, self._applier, self.progress, self._has_news
        )
        self._session = session
        if self._stopping.is_set():
            session.stop()
        try:
            session.run()
        finally:
            self._session = None
            self._has_news.set()
        # While the number of partitions changes, events wait in queues that nobody consumes yet.
        self._is_drained = session.is_drained and layout.stage is Stage.STEADY
        if session.is_drained and not self._is_drained:
            self._stopping.wait(BEAT_SECONDS)
        if session.opened.is_set():
            self.progress.counts.sessions[_end_of(session.error)] += 1
            done = {"applied": session.applied, "buried": session.buried}
            logger.info("session ended", extra=done)
        if session.error is not None:
            self._recover(session, address, session.error)

    def _declared_layout(self, address: pika.URLParameters) -> Layout:
        """The queues to consume. They exist, unless one was deleted while the layout changes."""
        try:
            with (
                broker_channel([address]) as channel,
                unchanging_layout(self._engine, self._default_partitions) as layout,
            ):
                if layout.stage is Stage.STEADY:
                    ensure_topology(channel, layout.partitions)
                return layout
        except DBAPIError as error:
            raise unavailable(error) from error

    def _start_beating(self) -> None:
        if self._beating is None:
            self._beating = threading.Thread(target=self._beat, name="beat", daemon=True)
            self._beating.start()

    def _stop_beating(self) -> None:
        self._has_ended = True
        self._has_news.set()
        if self._beating is not None:
            self._beating.join(LAST_BEAT_SECONDS)

    def _beat(self) -> None:
        """Once a second, and whenever there is news, it reports this worker as alive, tells the
        session what to consume as others come and go. If the ledger's new notes are due, it then
        folds them until the next beat is due, and goes on after that if there are more."""
        membership = Membership(self._engine, self._share)
        fold_at = 0.0
        try:
            while True:
                next_beat_at = time.monotonic() + BEAT_SECONDS
                self._has_news.clear()
                if self._has_ended:
                    return
                self._consult(membership)
                if time.monotonic() >= fold_at:
                    self._fold_new(membership, next_beat_at)
                    if not self._has_news.is_set() and time.monotonic() < next_beat_at:
                        fold_at = time.monotonic() + FOLD_SECONDS
                self._has_news.wait(next_beat_at - time.monotonic())
        except Exception as error:  # passed to the thread that can end the session
            self._beat_error = error
            self.stop()
        finally:
            _leave(membership)

    def _consult(self, membership: Membership) -> None:
        session = self._session
        is_connected = session is not None and session.opened.is_set()
        queues = session.layout.queues if session is not None else ()
        subscribed = session.subscribed if session is not None and is_connected else ()
        report = self.progress.report(subscribed, is_connected=is_connected)
        said = msgspec.json.encode(report).decode()
        try:
            assignment = membership.take_part(subscribed, queues, said)
            layout = membership.ask(read_layout) if is_connected else None
        except DBAPIError as error:
            if self._settings.drain and session is not None:
                session.fail(error)
            # The applier sees the same trouble and handles it.
            self._beat_outage.goes_on(first_line(error))
            self.progress.membership.goes_on(first_line(error))
            return
        self._beat_outage.is_over()
        self.progress.membership.ends()
        if session is None or not is_connected:
            return
        if session is not self._announced:
            self._announced = session
            self._outage.is_over()
            self.progress.outage.ends()
            logger.info("consuming", extra={"partitions": len(queues)})
        if layout is not None and layout.queues != queues:
            logger.info("the queues have changed", extra={"partitions": len(layout.queues)})
            session.stop()
        else:
            session.rebalance(assignment)

    def _fold_new(self, membership: Membership, until: float) -> None:
        try:
            if membership.ask(has_notes):
                self._fold(self._has_news, until)
        except DBAPIError as error:  # the next beat will not get through either, or end it
            self._beat_outage.goes_on(first_line(error))

    def _fold(self, enough: threading.Event, until: float = math.inf) -> None:
        try:
            fold(self._engine, until=lambda: enough.is_set() or time.monotonic() >= until)
        except DBAPIError as error:  # only the size suffers: the next fold does more
            self._fold_outage.goes_on(first_line(error))
        else:
            self._fold_outage.is_over()

    def _log_backoff(self, state: RetryCallState) -> None:
        self.progress.between_sessions()
        error = state.outcome.exception() if state.outcome else None
        self._outage.goes_on(str(error))
        self.progress.outage.goes_on(str(error))

    def _recover(
        self, session: ConsumingSession, address: pika.URLParameters, error: BaseException
    ) -> None:
        trouble: Exception
        match error:
            case ServerUnavailable():
                trouble = error
            case DBAPIError():
                trouble = unavailable(error)
            case AMQPConnectorException() | AMQPError() | OSError():
                trouble = BrokerUnavailable(f"the broker at {why_unreachable(address, error)}")
            case _:
                # A bug, or a connection that may still be there: the process ends, and with it the
                # connection, so that its deliveries go back.
                raise error
        if session.applied + session.buried == 0:
            raise trouble
        self._outage.goes_on(str(trouble))


def _end_of(error: BaseException | None) -> End:
    match error:
        case None:
            return End.TOLD
        case DatabaseUnavailable() | DBAPIError():
            return End.DATABASE
        case ServerUnavailable() | AMQPConnectorException() | AMQPError() | OSError():
            return End.BROKER
        case _:
            return End.BUG


def _leave(membership: Membership) -> None:
    try:
        membership.leave()
    except DBAPIError as error:
        logger.warning("the other workers will notice this one's end later: %s", first_line(error))
