"""One thread that keeps asking how everything is, so that no page has to ask the broker."""

import logging
import threading
from collections import deque
from datetime import UTC, datetime
from time import monotonic

from msgspec import Struct
from pika.adapters.blocking_connection import BlockingChannel
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from mirrorfeed.amqp.connections import (
    BrokerUnavailable,
    broker_channel,
    connection_parameters,
    count_queues,
)
from mirrorfeed.consumer.checkup import Seen, ask_database, counted, judge
from mirrorfeed.consumer.errors import ConsumerError
from mirrorfeed.consumer.health import STALLED_SECONDS, WorkerState
from mirrorfeed.consumer.web.trouble import in_words
from mirrorfeed.contract.environment import newest
from mirrorfeed.contract.outage import Outage

INTERVAL_SECONDS = 3.0
RETRY_SECONDS = 5.0
"""After the broker was away; each try is a connection in its log."""
FIRST_LOOK_SECONDS = 2.0
"""How long a page waits for the first look after the start."""
RATE_SECONDS = 30.0
"""Rates are means over about this long."""
MINUTES = 60
HANGS_SECONDS = 300.0
"""Longer than both servers may take to answer one look."""

logger = logging.getLogger(__name__)


class View(Struct, frozen=True):
    """What the latest look showed."""

    at: datetime
    seen: Seen | None
    """None if the database could not be asked."""
    database_is_away: str | None
    rates: dict[str, float]
    """How many messages of each queue are settled in a second."""
    waiting: list[int | None]
    """The most messages that waited in each of the last 60 minutes; None for before the start."""

    @property
    def age_seconds(self) -> float:
        """By the clock of this host, as `at` is."""
        return max(0.0, (datetime.now(UTC) - self.at).total_seconds())


class Watch:
    """Looks every few seconds from `start` to `stop`."""

    def __init__(
        self,
        engine: Engine,
        amqp_url: str,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        """Raises ValueError, without a password, if a URL cannot be read."""
        connection_parameters(amqp_url)
        self._engine = engine
        self._amqp_url = amqp_url
        self._interval_seconds = interval_seconds
        self._stalled_seconds = stalled_seconds
        self._stopping = threading.Event()
        self._has_looked = threading.Event()
        self._began_at = monotonic()
        self._view: View | None = None
        self._progress = Progress()
        self._database = Outage(logger, "the database")
        self._broker = Outage(logger, "the broker")
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns at once; a look under way ends by itself."""
        self._stopping.set()

    def join(self) -> None:
        """Waits until it has ended, after `stop`."""
        self._thread.join()

    def why_not_live(self) -> str | None:
        """Why only a restart would help; None if the service is live."""
        seconds = monotonic() - self._began_at
        return f"it has looked at nothing for {seconds:.0f} s" if seconds > HANGS_SECONDS else None

    def why_not_ready(self) -> str | None:
        """Why pages do not show all that they should; None if they do, or say what is away."""
        return None if self._has_looked.is_set() else "it has not looked yet"

    def latest(self) -> View | None:
        """What the latest look showed. After the start it waits for the first one, and if that
        takes too long, gives None."""
        self._has_looked.wait(FIRST_LOOK_SECONDS)
        return self._view

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                parameters = connection_parameters(newest(self._amqp_url), name="mirrorfeed web")
                with broker_channel(parameters) as channel:
                    self._broker.is_over()
                    while not self._stopping.is_set():
                        channel = self._look(channel, None)
                        self._stopping.wait(self._interval_seconds)
            except (BrokerUnavailable, ValueError) as error:
                self._broker.goes_on(str(error))
                self._look(None, str(error))
                self._stopping.wait(max(self._interval_seconds, RETRY_SECONDS))
            except Exception:
                # A page that shows an old look says so.
                logger.exception("the look at everything failed; trying again")
                self._stopping.wait(RETRY_SECONDS)

    def _look(
        self, channel: BlockingChannel | None, broker_is_away: str | None
    ) -> BlockingChannel | None:
        """Returns the channel to go on with. Raises the causes of BrokerUnavailable."""
        self._began_at = monotonic()
        seen, database_is_away = None, None
        try:
            with self._engine.begin() as connection:
                layout, workers = ask_database(connection)
        except (SQLAlchemyError, ConsumerError) as error:
            database_is_away = in_words(error)
            self._database.goes_on(database_is_away)
            if channel is not None:
                channel.connection.process_data_events(0)
        else:
            self._database.is_over()
            counts = None
            if channel is not None:
                said, channel = count_queues(channel, layout.queues)
                counts = counted(said)
            seen = judge(layout, workers, counts, broker_is_away, self._stalled_seconds)
            waiting = None if counts is None else sum(each.ready for each in counts.values())
            self._progress.note(workers, waiting)
        self._view = View(
            datetime.now(UTC),
            seen,
            database_is_away,
            self._progress.rates(),
            self._progress.waiting(),
        )
        self._has_looked.set()
        return channel


class Progress:
    """What the looks of the last while have shown, by this process's clock."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[tuple[str, str], int]]] = deque()
        self._most_waiting: dict[int, int] = {}

    def note(self, workers: list[WorkerState], waiting: int | None) -> None:
        now = monotonic()
        settled = {
            (worker.name, queue): count
            for worker in workers
            for queue, count in worker.report.settled.items()
        }
        self._samples.append((now, settled))
        while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_SECONDS:
            self._samples.popleft()
        minute = int(now // 60)
        if waiting is not None:
            self._most_waiting[minute] = max(waiting, self._most_waiting.get(minute, 0))
        for old in [each for each in self._most_waiting if each <= minute - MINUTES]:
            del self._most_waiting[old]

    def rates(self) -> dict[str, float]:
        """How many messages of each queue were settled in a second. A worker that was not there in
        the beginning, or began anew, counts from zero."""
        if len(self._samples) < 2:
            return {}
        (began_at, before), (ended_at, after) = self._samples[0], self._samples[-1]
        rates: dict[str, float] = {}
        for (worker, queue), count in after.items():
            known = before.get((worker, queue), 0)
            settled = count - known if count >= known else count
            rates[queue] = rates.get(queue, 0.0) + settled / max(ended_at - began_at, 1.0)
        return rates

    def waiting(self) -> list[int | None]:
        """The most messages that waited in each of the last minutes, the earliest first."""
        minute = int(monotonic() // 60)
        return [self._most_waiting.get(minute - back) for back in reversed(range(MINUTES))]
