"""One connection's life: deliveries become batches, batches are applied, then acked.

The I/O thread, which calls `run`, speaks AMQP and decodes. The applier thread speaks SQL, and so
does the burier thread, which takes the large messages. Only an inbox, a queue and thread-safe
callbacks are between them. So heartbeats go on while a transaction runs, and the next batch is
decoded meanwhile. While too much is in hand, the I/O thread reads nothing, and so the broker stops
sending.

A session never recovers: any failure ends it, its unacked deliveries go back to their queues in
order, and the worker begins another one. So no ack can reach the wrong channel.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pika
from pika.exceptions import NoFreeChannels
from sqlalchemy.exc import DBAPIError

from mirrorfeed.amqp.connections import TooFewChannels
from mirrorfeed.amqp.read_frames import delivery_connection, properties_bytes
from mirrorfeed.amqp.session import Session
from mirrorfeed.consumer.apply.applier import Applier, Tally
from mirrorfeed.consumer.apply.message import (
    NO_HEADERS,
    Message,
    read_message,
    redeliveries,
    require_user,
)
from mirrorfeed.consumer.database import first_line
from mirrorfeed.consumer.errors import ConsumerCancelled
from mirrorfeed.consumer.partitions.assignment import Assignment
from mirrorfeed.consumer.partitions.layout import Layout
from mirrorfeed.consumer.worker.applying import Applying
from mirrorfeed.consumer.worker.burying import Burying, LargeDelivery
from mirrorfeed.consumer.worker.in_hand import InHand
from mirrorfeed.consumer.worker.inbox import Delivery, Inbox, Subscription, Suspect
from mirrorfeed.consumer.worker.progress import Progress
from mirrorfeed.consumer.worker.settings import Settings
from mirrorfeed.contract import routing
from mirrorfeed.contract.wire import MAX_READABLE_BYTES

UNCOUNTED_BYTES = 1024
"""Most events are smaller, and what they take once decoded is not worth counting."""
PAUSE_SECONDS = 5.0
"""How long nothing is read while too much is in hand. Between two pauses a little is, so that the
broker's heartbeats are seen, and ours are sent."""
TURN_SECONDS = 1.0
SAMPLE_SECONDS = 2.0
DRAIN_POLL_SECONDS = 0.05
STOP_SECONDS = 7.0
"""How long a batch in hand may still take once the session is told to stop, or has lost the
broker."""
ABANDON_SECONDS = 1.0

logger = logging.getLogger(__name__)


class ConsumingSession(Session):
    """Consumes the queues it is told to, until something ends it."""

    def __init__(
        self,
        parameters: pika.URLParameters,
        layout: Layout,
        settings: Settings,
        applier: Applier,
        progress: Progress,
        has_news: threading.Event,
    ) -> None:
        """The applier is called in its own thread. `has_news` is set when the session is connected,
        and whenever what it is subscribed to has changed."""
        self.layout = layout
        self._queues = queues = layout.queues
        self._settings = settings
        # Two batches over all queues, so that one can arrive while the other is applied.
        self._prefetch = max(1, 2 * settings.batch_size // len(queues))
        self._applier = applier
        self._inbox = Inbox(settings.batch_size)
        self._closing = threading.Event()
        self._applying = Applying(
            self._inbox,
            applier,
            self._read_suspect,
            self._on_settled,
            self._closing,
            progress,
            settings.spans,
        )
        self._progress = progress
        self._burying = Burying(applier, self._on_buried, self._closing, progress.counts.retried)
        self._applier_thread = self._thread_of("applier", self._applying.run)
        self._burier_thread = self._thread_of("burier", self._burying.run)
        self._in_hand = InHand(progress)
        self._ended_threads = 0
        self._is_pausing = False
        self._woken = threading.Event()
        """Ends a pause."""
        self._stop_by = 0.0
        self._assignment: Assignment | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._channels = 0
        """How many are open, or not closed yet."""
        self._drain_check: object = None
        """The latest one; answers to an earlier one do not count."""
        self._counting = threading.Lock()
        self.applied = 0
        self.buried = 0
        self.is_drained = False
        self.opened = threading.Event()
        """Whether the broker has accepted the connection."""
        self._has_news = has_news
        super().__init__(delivery_connection, parameters)

    def run(self) -> None:
        """Returns once the session has ended; `error` says why, None if it was told to."""
        threads = self._applier_thread, self._burier_thread
        for thread in threads:
            thread.start()
        self._turn()
        try:
            self._run_loop()
        finally:
            self._progress.between_sessions()
            self._close_inbox()
            self._ioloop.close()
            for thread in threads:
                thread.join(max(0.0, self._stop_by - time.monotonic()))
            self._abandon()

    def _abandon(self) -> None:
        """What was not applied goes back to the broker. That must not look as if a worker had died.
        Does not wait for a database that does not answer."""
        abandoning = threading.Thread(target=self._abandon_patiently, daemon=True)
        abandoning.start()
        abandoning.join(ABANDON_SECONDS)

    def _abandon_patiently(self) -> None:
        try:
            self._applier.abandon(is_waiting=self._applier_thread.is_alive())
        except DBAPIError as error:
            logger.warning("an unfinished trial may be counted", extra={"error": first_line(error)})

    def stop(self) -> None:
        """Ends the session once the batch in hand is committed and acked. From any thread."""
        self._close_inbox()
        # Do not wait for a server that no longer answers.
        self._call(partial(self._ioloop.call_later, STOP_SECONDS, self._ioloop.stop))

    def fail(self, error: BaseException) -> None:
        """Ends the session with this error. From any thread."""
        self._call(partial(self._end, error))

    def rebalance(self, assignment: Assignment) -> None:
        """Sets what this worker is to consume from now on. From any thread."""
        self._call(partial(self._take_assignment, assignment))

    @property
    def own(self) -> frozenset[str] | None:
        """What it should be subscribed to; None if it does not know yet. Any thread may ask."""
        assignment = self._assignment
        return None if assignment is None else assignment.own

    @property
    def subscribed(self) -> list[str]:
        """The partition queues it is subscribed to. Any thread may ask."""
        subscriptions = map(self._subscriptions.get, self._queues)
        return [each.queue for each in subscriptions if each and each.is_open]

    def _call(self, callback: Callable[[], object]) -> None:
        """Has the I/O thread call it soon, even during a pause. From any thread."""
        self._ioloop.add_callback_threadsafe(callback)
        self._woken.set()

    def _close_inbox(self) -> None:
        if not self._closing.is_set():
            self._stop_by = time.monotonic() + STOP_SECONDS
            self._closing.set()
            self._inbox.close()
            self._burying.wake()

    # In the I/O thread, in the order in which it happens.

    def _on_connection_open(self, connection: Any) -> None:
        self._subscribe(routing.DEAD_QUEUE)
        self.opened.set()
        self._has_news.set()
        self._sample()
        if self._settings.drain:
            self._ioloop.call_later(DRAIN_POLL_SECONDS, self._check_drained)

    def _turn(self) -> None:
        self._progress.turned()
        self._ioloop.call_later(TURN_SECONDS, self._turn)

    def _sample(self) -> None:
        """Finds out in which queues nothing waits, so that nothing need be settled there."""
        for queue in self._queues:
            subscription = self._subscriptions.get(queue)
            if subscription and subscription.is_open:
                subscription.channel.queue_declare(
                    queue, passive=True, callback=partial(self._on_sampled, subscription)
                )
        self._ioloop.call_later(SAMPLE_SECONDS, self._sample)

    def _on_sampled(self, subscription: Subscription, frame: Any) -> None:
        if not frame.method.message_count and not subscription.in_hand:
            self._progress.has_moved(subscription.queue)

    def _take_assignment(self, assignment: Assignment) -> None:
        self._assignment = assignment
        if not self._connection.is_open or self._is_ending:
            return
        for queue in self._queues:
            subscription = self._subscriptions.get(queue)
            if queue in assignment.own:
                if subscription is None:
                    self._subscribe(queue)
            elif subscription and queue in assignment.served:
                del self._subscriptions[queue]
                subscription.give_back()
                self._has_news.set()
                if self._settings.drain:
                    self._check_drained()  # an earlier check may get no answer on that channel

    def _subscribe(self, queue: str) -> None:
        subscription = self._progress.counts.subscribed(queue, self._prefetch)
        self._subscriptions[queue] = subscription

        def on_channel_open(channel: Any) -> None:
            self._channels += 1
            channel.add_on_close_callback(on_channel_closed)
            if subscription.is_given_back:
                channel.close()
                return
            subscription.channel = channel
            self._progress.has_moved(subscription.queue)
            channel.add_on_cancel_callback(partial(self._on_cancelled, subscription.queue))
            channel.basic_qos(prefetch_count=subscription.prefetch)
            channel.basic_consume(subscription.queue, partial(self._receive, subscription))
            self._has_news.set()

        def on_channel_closed(channel: Any, reason: Exception) -> None:
            self._channels -= 1
            if not subscription.is_given_back:
                self._on_channel_closed(channel, reason)
            elif self._is_ending:
                self._close()

        if not self._connection.is_open:
            return
        try:
            self._connection.channel(on_open_callback=on_channel_open)
        except NoFreeChannels:
            limit = self._connection.params.channel_max
            self._end(TooFewChannels(limit, len(self._queues) + 1))

    def _receive(
        self,
        subscription: Subscription,
        channel: Any,
        method: Any,
        properties: Any,
        body: bytes | tuple[bytes, ...],
    ) -> None:
        subscription.received += 1
        if isinstance(body, tuple) or len(body) > MAX_READABLE_BYTES:
            self._receive_large(subscription, method, properties, body)
            return
        is_suspect = method.redelivered
        if is_suspect:
            self._progress.counts.redeliveries += 1
        message = Suspect(body, properties) if is_suspect else self._read(body, properties)
        size_bytes = len(body) + properties_bytes(properties)
        if len(body) > UNCOUNTED_BYTES:
            size_bytes += message.decoded_bytes
        self._inbox.put(
            Delivery(message, subscription, method.delivery_tag, size_bytes, is_suspect)
        )
        self._in_hand.size_bytes += size_bytes
        if self._in_hand.is_too_much:
            self._pause_soon()

    def _receive_large(
        self,
        subscription: Subscription,
        method: Any,
        properties: Any,
        body: bytes | tuple[bytes, ...],
    ) -> None:
        self._progress.counts.redeliveries += method.redelivered
        pieces = body if isinstance(body, tuple) else (body,)
        size_bytes = sum(map(len, pieces)) + properties_bytes(properties)
        delivery = LargeDelivery(
            pieces, properties, method.redelivered, subscription, method.delivery_tag, size_bytes
        )
        self._in_hand.take_large(delivery)
        self._burying.put(delivery)
        if self._in_hand.is_too_much:
            self._pause_soon()

    def _pause_soon(self) -> None:
        if not self._is_pausing:
            self._is_pausing = True
            self._ioloop.add_callback_threadsafe(self._pause)

    def _pause(self) -> None:
        """Reads nothing for a while, but for what came before this was called."""
        self._is_pausing = False
        if self._in_hand.is_too_much:
            self._woken.wait(PAUSE_SECONDS)
            self._woken.clear()
            self._pause_soon()

    @property
    def _received(self) -> int:
        return sum(each.received for each in self._subscriptions.values())

    def _check_drained(self, clean_rounds: int = 0) -> None:
        """Drained means that two rounds in a row find every queue empty and nothing on its way.

        One round is not enough: a message that has left its queue may not have arrived here yet.
        It arrives before the same channel's answer to the next question.
        """
        self._drain_check = this_check = object()
        received_before = self._received
        waiting: dict[str, int] = {}

        def on_answer(queue: str, frame: Any) -> None:
            waiting[queue] = frame.method.message_count
            if self._drain_check is not this_check or len(waiting) < len(self._queues) + 1:
                return
            is_idle = self._applying.is_idle and not self._in_hand.has_large
            is_clean = is_idle and self._received == received_before
            check_again(clean_rounds + 1 if is_clean and not any(waiting.values()) else 0)

        def check_again(clean_rounds: int) -> None:
            if clean_rounds == 2:
                self.is_drained = True
                self._end()
            else:
                next_check = partial(self._check_drained, clean_rounds)
                self._ioloop.call_later(DRAIN_POLL_SECONDS, next_check)

        dead = self._subscriptions[routing.DEAD_QUEUE]
        own = self._assignment.own if self._assignment else set(self._queues)
        is_subscribed = dead.is_open and own.issubset(self.subscribed)
        is_idle = self._applying.is_idle and not self._in_hand.has_large
        if not is_subscribed or not is_idle:
            check_again(0)
            return
        for queue in (routing.DEAD_QUEUE, *self._queues):
            subscription = self._subscriptions.get(queue)
            asked = subscription if subscription and subscription.is_open else dead
            asked.channel.queue_declare(queue, passive=True, callback=partial(on_answer, queue))

    def _on_cancelled(self, queue: str, frame: Any) -> None:
        self._end(ConsumerCancelled(f"the broker cancelled the subscription to {queue}"))

    def _close(self) -> None:
        """Gives back all queues. The connection is closed once all channels are."""
        self._close_inbox()
        for subscription in self._subscriptions.values():
            if not subscription.is_given_back:
                subscription.give_back()
        if not (self._channels or self._connection.is_closing or self._connection.is_closed):
            super()._close()

    def _on_thread_ended(self, error: BaseException | None) -> None:
        """Ends the session once both have ended: what they have in hand must be acked first."""
        self._ended_threads += 1
        if error is not None or self._ended_threads == 2:
            self._end(error)

    # In the applier and burier threads.

    def _thread_of(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            error: BaseException | None = None
            try:
                work()
            except BaseException as raised:  # handed to the thread that can end the session
                error = raised
            self._call(partial(self._on_thread_ended, error))

        return threading.Thread(target=run, name=name, daemon=True)

    def _on_settled(self, deliveries: Sequence[Delivery], tally: Tally, all_before: bool) -> None:
        self._count(tally)
        settle = self._in_hand.settle_up_to if all_before else self._in_hand.settle_each
        self._call(partial(settle, deliveries))

    def _on_buried(self, delivery: LargeDelivery, tally: Tally) -> None:
        self._count(tally)
        self._call(partial(self._in_hand.settle_large, delivery))

    def _count(self, tally: Tally) -> None:
        self._progress.counts.committed(tally)
        with self._counting:
            self.applied += tally.applied
            self.buried += tally.buried.total()
        if tally.buried:
            not_kept = {"not_kept": tally.not_kept} if tally.not_kept else {}
            logger.warning("buried", extra={"reasons": dict(tally.buried), **not_kept})

    # In any of these threads.

    def _read(self, body: bytes, properties: Any, *, is_redelivered: bool = False) -> Message:
        headers = properties.headers or NO_HEADERS
        message = read_message(
            body,
            headers,
            limits=self._settings.limits,
            deliveries=redeliveries(headers) if is_redelivered else 1,
        )
        if self._settings.required_users:
            message = require_user(message, properties.user_id, self._settings.required_users)
        return message

    def _read_suspect(self, suspect: Suspect) -> Message:
        return self._read(suspect.body, suspect.properties, is_redelivered=True)
