"""One connection's life: deliveries become batches, batches are applied, then acked.

Two threads, with only the inbox and thread-safe callbacks between them. The I/O thread, which calls
`run`, speaks AMQP and decodes; the applier thread speaks SQL. So heartbeats go on while a
transaction runs, and the next batch is decoded meanwhile.

A session never recovers: any failure ends it, its unacked deliveries go back to their queues in
order, and the worker begins another one. So no ack can reach the wrong channel.
"""

import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pika
from pika.exceptions import NoFreeChannels
from sqlalchemy.exc import DBAPIError

from mirrorfeed.amqp.channels import forget_consumers
from mirrorfeed.amqp.connections import TooFewChannels
from mirrorfeed.amqp.read_frames import delivery_connection
from mirrorfeed.amqp.session import Session
from mirrorfeed.consumer.apply.batch import Applier, Tally
from mirrorfeed.consumer.apply.message import Message, read_message, redeliveries, require_user
from mirrorfeed.consumer.database import first_line
from mirrorfeed.consumer.errors import ConsumerCancelled
from mirrorfeed.consumer.partitions.assignment import Assignment
from mirrorfeed.consumer.worker.applying import Applying
from mirrorfeed.consumer.worker.inbox import Delivery, Inbox, Subscription, Suspect
from mirrorfeed.consumer.worker.settings import Settings
from mirrorfeed.contract import routing

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
        queues: Sequence[str],
        settings: Settings,
        applier: Applier,
    ) -> None:
        """The applier is called in its own thread."""
        self._queues = queues
        self._settings = settings
        # Two batches over all queues, so that one can arrive while the other is applied.
        self._prefetch = max(1, 2 * settings.batch_size // len(queues))
        self._applier = applier
        self._inbox = Inbox(settings.batch_size)
        self._closing = threading.Event()
        self._applying = Applying(
            self._inbox, applier, self._read_suspect, self._on_settled, self._closing
        )
        self._stop_by = 0.0
        self._assignment: Assignment | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._received = 0
        self._thread = threading.Thread(target=self._apply_batches, name="applier", daemon=True)
        self.applied = 0
        self.buried = 0
        self.is_drained = False
        self.opened = threading.Event()
        """Whether the broker has accepted the connection."""
        super().__init__(delivery_connection, parameters)

    def run(self) -> None:
        """Returns once the session has ended; `error` says why, None if it was told to."""
        self._thread.start()
        try:
            self._ioloop.start()
        finally:
            self._close_inbox()
            self._ioloop.close()
            self._thread.join(max(0.0, self._stop_by - time.monotonic()))
            self._abandon()

    def _abandon(self) -> None:
        """What was not applied goes back to the broker. That must not look as if a worker had died.
        Does not wait for a database that does not answer."""
        abandoning = threading.Thread(target=self._abandon_patiently, daemon=True)
        abandoning.start()
        abandoning.join(ABANDON_SECONDS)

    def _abandon_patiently(self) -> None:
        try:
            self._applier.abandon(is_waiting=self._thread.is_alive())
        except DBAPIError as error:
            logger.warning("an unfinished trial may be counted", extra={"error": first_line(error)})

    def stop(self) -> None:
        """Ends the session once the batch in hand is committed and acked. From any thread."""
        self._close_inbox()
        # Do not wait for a server that no longer answers.
        end = partial(self._ioloop.call_later, STOP_SECONDS, self._ioloop.stop)
        self._ioloop.add_callback_threadsafe(end)

    def fail(self, error: BaseException) -> None:
        """Ends the session with this error. From any thread."""
        self._ioloop.add_callback_threadsafe(partial(self._end, error))

    def rebalance(self, assignment: Assignment) -> None:
        """Sets what this worker is to consume from now on. From any thread."""
        self._ioloop.add_callback_threadsafe(partial(self._take_assignment, assignment))

    @property
    def subscribed(self) -> list[str]:
        """The partition queues it is subscribed to. Any thread may ask."""
        subscriptions = map(self._subscriptions.get, self._queues)
        return [each.queue for each in subscriptions if each and each.is_open]

    def _close_inbox(self) -> None:
        if not self._closing.is_set():
            self._stop_by = time.monotonic() + STOP_SECONDS
            self._closing.set()
            self._inbox.close()

    # In the I/O thread, in the order in which it happens.

    def _on_connection_open(self, connection: Any) -> None:
        self._subscribe(Subscription(routing.DEAD_QUEUE, self._prefetch))
        self.opened.set()
        if self._settings.drain:
            self._ioloop.call_later(DRAIN_POLL_SECONDS, self._check_drained)

    def _take_assignment(self, assignment: Assignment) -> None:
        self._assignment = assignment
        if not self._connection.is_open:
            return
        for queue in self._queues:
            subscription = self._subscriptions.get(queue)
            if queue in assignment.own:
                if subscription is None:
                    self._subscribe(Subscription(queue, self._prefetch))
            elif subscription and queue in assignment.served:
                del self._subscriptions[queue]
                subscription.give_back()

    def _subscribe(self, subscription: Subscription) -> None:
        self._subscriptions[subscription.queue] = subscription

        def on_channel_open(channel: Any) -> None:
            if subscription.is_given_back:
                channel.close()
                return
            subscription.channel = channel
            channel.add_on_close_callback(on_channel_closed)
            channel.add_on_cancel_callback(partial(self._on_cancelled, subscription.queue))
            channel.basic_qos(prefetch_count=subscription.prefetch)
            channel.basic_consume(subscription.queue, partial(self._receive, subscription))

        def on_channel_closed(channel: Any, reason: Exception) -> None:
            if not subscription.is_given_back:
                self._on_channel_closed(channel, reason)

        if not self._connection.is_open:
            return
        try:
            self._connection.channel(on_open_callback=on_channel_open)
        except NoFreeChannels:
            limit = self._connection.params.channel_max
            self._end(TooFewChannels(limit, len(self._queues) + 1))

    def _receive(
        self, subscription: Subscription, channel: Any, method: Any, properties: Any, body: bytes
    ) -> None:
        self._received += 1
        is_suspect = method.redelivered
        message = Suspect(body, properties) if is_suspect else self._read(body, properties)
        self._inbox.put(Delivery(message, subscription, method.delivery_tag, is_suspect))

    def _settle_up_to(self, batch: Sequence[Delivery]) -> None:
        """One ack per channel: a batch has the first deliveries of each channel, without a gap."""
        for delivery in {each.subscription: each for each in batch}.values():
            _ack(delivery, multiple=True)

    def _settle_each(self, deliveries: Sequence[Delivery]) -> None:
        """Others that came before these are still in hand."""
        for delivery in deliveries:
            _ack(delivery, multiple=False)

    def _check_drained(self, clean_rounds: int = 0) -> None:
        """Drained means that two rounds in a row find every queue empty and nothing on its way.

        One round is not enough: a message that has left its queue may not have arrived here yet.
        It arrives before the same channel's answer to the next question.
        """
        received_before = self._received
        waiting: dict[str, int] = {}

        def on_answer(queue: str, frame: Any) -> None:
            waiting[queue] = frame.method.message_count
            if len(waiting) < len(self._queues) + 1:
                return
            is_clean = self._applying.is_idle and self._received == received_before
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
        if not is_subscribed or not self._applying.is_idle:
            check_again(0)
            return
        for queue in (routing.DEAD_QUEUE, *self._queues):
            subscription = self._subscriptions.get(queue)
            asked = subscription if subscription and subscription.is_open else dead
            asked.channel.queue_declare(queue, passive=True, callback=partial(on_answer, queue))

    def _on_cancelled(self, queue: str, frame: Any) -> None:
        self._end(ConsumerCancelled(f"the broker cancelled the subscription to {queue}"))

    def _end(self, error: BaseException | None = None) -> None:
        if self._connection.is_open:
            for subscription in self._subscriptions.values():
                if subscription.is_open:
                    forget_consumers(subscription.channel)
        super()._end(error)

    # In the applier thread.

    def _apply_batches(self) -> None:
        error: BaseException | None = None
        try:
            self._applying.run()
        except BaseException as raised:  # handed to the thread that can end the session
            error = raised
        self._ioloop.add_callback_threadsafe(partial(self._end, error))

    def _on_settled(self, deliveries: Sequence[Delivery], tally: Tally, all_before: bool) -> None:
        self.applied += tally.applied
        self.buried += tally.buried.total()
        if tally.buried:
            logger.warning("buried", extra={"reasons": dict(tally.buried)})
        settle = self._settle_up_to if all_before else self._settle_each
        self._ioloop.add_callback_threadsafe(partial(settle, deliveries))

    # In either thread.

    def _read(self, body: bytes, properties: Any, *, is_redelivered: bool = False) -> Message:
        headers = properties.headers or {}
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


def _ack(delivery: Delivery, *, multiple: bool) -> None:
    subscription = delivery.subscription
    if subscription.is_open:
        subscription.channel.basic_ack(delivery.delivery_tag, multiple=multiple)
