"""One connection's life: deliveries become batches, batches are applied, then acked.

Two threads, and only the inbox and thread-safe callbacks between them. The I/O thread, which calls
`run`, speaks AMQP and decodes; the applier thread speaks SQL. So heartbeats go on while a
transaction runs, and the next batch is decoded meanwhile.

A session never recovers: whatever goes wrong ends it, its unacked deliveries go back to their
queues in order, and the worker begins another one. So no ack can reach a channel it is not of.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection
from pika.exceptions import ChannelClosedByClient, ConnectionClosedByClient
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

from consumer import topology
from consumer.applier import Tally
from consumer.database import first_line
from consumer.inbox import Delivery, Inbox
from consumer.messages import Message, given_up, read_message, redeliveries, require_user
from contract import routing

PATIENCE_SECONDS = 300.0
"""How long a batch is tried again before its deliveries go back to the broker. It would take them
back after 30 minutes (`consumer_timeout`), and counts each return against the delivery limit."""
DRAIN_POLL_SECONDS = 0.05
STOP_SECONDS = 7.0
"""How long a batch in hand may take to end once the session is told to stop, or has lost the
broker."""
DEAD_PREFETCH = 1
READABLE_DELIVERIES = 2
"""Of a message that the broker gave up on: any worker may end once, whatever it has in hand."""
STANDBY_SECONDS = 3.0
"""How long a worker with a share of its own leaves the other partitions to their workers."""

logger = logging.getLogger(__name__)


class ConsumerCancelled(Exception):
    """The broker ended a subscription: its queue was deleted, or has no leader."""


@dataclass(frozen=True)
class Plan:
    """What a session consumes, and how."""

    partitions: int
    own: frozenset[int]
    """The partitions to consume at once; the others only where no other worker does."""
    batch_size: int
    future_tolerance: timedelta
    drain: bool
    required_users: frozenset[str] = frozenset()
    """Who may have published what is applied, by the broker's word; empty for anybody."""

    @property
    def prefetch(self) -> int:
        """Deliveries of one partition in hand; of all partitions together two batches, so that one
        can arrive while the other is applied."""
        return max(1, 2 * self.batch_size // self.partitions)


class Session:
    """Consumes every partition until something ends it."""

    def __init__(
        self,
        parameters: pika.URLParameters,
        plan: Plan,
        apply: Callable[[Sequence[Message]], Tally],
    ) -> None:
        """`apply` is called in the applier thread; it raises DBAPIError for a database in
        trouble."""
        self._plan = plan
        self._apply = apply
        self._inbox = Inbox(plan.batch_size)
        self._closing = threading.Event()
        self._stop_by = 0.0
        self._channels: dict[str, Any] = {}
        self._consumer_tags: dict[str, str] = {}
        self._careful: set[str] = set()
        self._moving: set[str] = set()
        self._received = 0
        self._applier = threading.Thread(target=self._apply_batches, name="applier", daemon=True)
        self.applied = 0
        self.buried = 0
        self.is_drained = False
        self.error: BaseException | None = None
        self._connection = SelectConnection(
            parameters,
            on_open_callback=self._on_connection_open,
            on_open_error_callback=self._on_connection_ended,
            on_close_callback=self._on_connection_ended,
        )
        self._ioloop = self._connection.ioloop

    def run(self) -> None:
        """Returns when the session has ended; `error` says why, None where it was told to."""
        self._applier.start()
        try:
            self._ioloop.start()
        finally:
            self._close_inbox()
            self._ioloop.close()
            self._applier.join(max(0.0, self._stop_by - time.monotonic()))

    def stop(self) -> None:
        """Ends the session once the batch in hand is committed and acked. From any thread."""
        self._close_inbox()
        # A server that does not answer any more is not waited for.
        end = partial(self._ioloop.call_later, STOP_SECONDS, self._ioloop.stop)
        self._ioloop.add_callback_threadsafe(end)

    def _close_inbox(self) -> None:
        if not self._closing.is_set():
            self._stop_by = time.monotonic() + STOP_SECONDS
            self._closing.set()
            self._inbox.close()

    # In the I/O thread, in the order in which it happens.

    def _on_connection_open(self, connection: SelectConnection) -> None:
        self._open_channel(routing.DEAD_QUEUE, DEAD_PREFETCH)
        for partition in range(self._plan.partitions):
            open_careful = partial(self._open_careful, partition)
            if partition in self._plan.own:
                open_careful()
            else:
                # Before RabbitMQ 4.0 the first subscriber wins, whatever its priority.
                self._ioloop.call_later(STANDBY_SECONDS, open_careful)
        if self._plan.drain:
            self._ioloop.call_later(DRAIN_POLL_SECONDS, self._check_drained)

    def _open_careful(self, partition: int) -> None:
        """What is delivered first may have ended the worker before. Should it do so again, nothing
        else that is in hand counts one more delivery towards its limit: there is nothing else."""
        queue = routing.partition_queue(partition)
        self._careful.add(queue)
        self._open_channel(queue, 1)

    def _open_channel(
        self, queue: str, prefetch: int, then: Callable[[], object] = lambda: None
    ) -> None:
        if self._connection.is_open:
            subscribe = partial(self._subscribe, queue, prefetch, then)
            self._connection.channel(on_open_callback=subscribe)

    def _subscribe(
        self, queue: str, prefetch: int, then: Callable[[], object], channel: Any
    ) -> None:
        self._channels[queue] = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(partial(self._on_cancelled, queue))
        channel.basic_qos(prefetch_count=prefetch)
        self._consumer_tags[queue] = channel.basic_consume(
            queue,
            partial(self._receive, queue),
            arguments={"x-priority": int(self._is_own(queue))},
            callback=lambda _: then(),
        )

    def _is_own(self, queue: str) -> bool:
        return queue in map(routing.partition_queue, self._plan.own)

    def _receive(self, queue: str, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._received += 1
        headers = properties.headers or {}
        deliveries = redeliveries(headers) if method.redelivered else 1
        if queue == routing.DEAD_QUEUE:
            message = given_up(
                body,
                headers,
                delivery_limit=topology.DELIVERY_LIMIT,
                is_readable=deliveries <= READABLE_DELIVERIES,
            )
        else:
            message = read_message(
                body,
                headers,
                future_tolerance=self._plan.future_tolerance,
                deliveries=deliveries,
            )
            if self._plan.required_users:
                message = require_user(message, properties.user_id, self._plan.required_users)
        self._inbox.put(Delivery(message, queue, method.delivery_tag, method.redelivered))

    def _settle(self, batch: Sequence[Delivery]) -> None:
        """One ack a channel: a batch holds the first of what waited there, without a gap."""
        for delivery in {each.queue: each for each in batch}.values():
            queue, channel = delivery.queue, self._channels[delivery.queue]
            if not channel.is_open:
                continue
            if queue in self._careful and not delivery.is_suspect:
                self._trust(queue, delivery.delivery_tag)
            else:
                channel.basic_ack(delivery.delivery_tag, multiple=True)

    def _trust(self, queue: str, delivery_tag: int) -> None:
        """Nothing that waits has been in a worker's hands: goes on with the full prefetch.

        That needs another subscription, which gets its turn when the careful one is cancelled. The
        message in hand is acked only then, so that none comes between the two.
        """
        careful, consumer_tag = self._channels[queue], self._consumer_tags[queue]
        self._careful.remove(queue)
        self._moving.add(queue)

        def cancel_careful() -> None:
            if careful.is_open:
                careful.basic_cancel(consumer_tag, close_careful)

        def close_careful(_: object) -> None:
            if careful.is_open:
                careful.basic_ack(delivery_tag)
                careful.close()
            self._moving.remove(queue)

        self._open_channel(queue, self._plan.prefetch, cancel_careful)

    def _check_drained(self, clean_rounds: int = 0) -> None:
        """Drained is when two rounds in a row find every queue empty and nothing on its way.

        One round is not enough: a message that has left its queue may not have arrived here yet.
        It arrives before the same channel's answer to the next question.
        """
        received_before = self._received
        waiting: dict[str, int] = {}

        def on_answer(queue: str, frame: Any) -> None:
            waiting[queue] = frame.method.message_count
            if len(waiting) < len(self._channels):
                return
            is_clean = self._inbox.is_idle and self._received == received_before
            check_again(clean_rounds + 1 if is_clean and not any(waiting.values()) else 0)

        def check_again(clean_rounds: int) -> None:
            if clean_rounds == 2:
                self.is_drained = True
                self._end()
            else:
                next_check = partial(self._check_drained, clean_rounds)
                self._ioloop.call_later(DRAIN_POLL_SECONDS, next_check)

        are_settled = len(self._channels) > self._plan.partitions and not self._moving
        if not are_settled or not self._inbox.is_idle:
            check_again(0)
            return
        for queue, channel in self._channels.items():
            if channel.is_open:
                channel.queue_declare(queue, passive=True, callback=partial(on_answer, queue))

    def _on_cancelled(self, queue: str, frame: Any) -> None:
        self._end(ConsumerCancelled(f"the broker cancelled the subscription to {queue}"))

    def _on_channel_closed(self, channel: Any, reason: Exception) -> None:
        if not isinstance(reason, ChannelClosedByClient):
            self._end(reason)

    def _on_connection_ended(self, connection: SelectConnection, reason: Exception) -> None:
        if not isinstance(reason, ConnectionClosedByClient):
            self.error = self.error or reason
        self._ioloop.stop()

    def _end(self, error: BaseException | None = None) -> None:
        self.error = self.error or error
        if self._connection.is_open:
            for channel in self._channels.values():
                # Else pika cancels each subscription before it closes. The broker would then serve
                # the next worker while these deliveries are still out, and so out of order.
                channel._cancelled.update(channel.consumer_tags)
            self._connection.close()
        elif not self._connection.is_closing:
            self._ioloop.stop()

    # In the applier thread.

    def _apply_batches(self) -> None:
        error: BaseException | None = None
        try:
            while batch := self._inbox.take():
                tally = self._apply_patiently([delivery.message for delivery in batch])
                self._count(tally)
                self._ioloop.add_callback_threadsafe(partial(self._settle, batch))
        except BaseException as raised:  # handed to the thread that can end the session
            error = raised
        self._ioloop.add_callback_threadsafe(partial(self._end, error))

    def _apply_patiently(self, messages: Sequence[Message]) -> Tally:
        """Retries in place what passes by itself, such as a deadlock or a database's restart."""
        retry = Retrying(
            retry=retry_if_exception_type(DBAPIError),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=stop_any(stop_after_delay(PATIENCE_SECONDS), stop_when_event_set(self._closing)),
            sleep=sleep_using_event(self._closing),
            before_sleep=_log_retry,
            reraise=True,
        )
        return retry(self._apply, messages)

    def _count(self, tally: Tally) -> None:
        self.applied += tally.applied
        self.buried += tally.buried.total()
        if tally.buried:
            logger.warning("buried", extra={"reasons": dict(tally.buried)})


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.warning(
        "the database is in trouble, trying again",
        extra={"error": first_line(error) if isinstance(error, DBAPIError) else str(error)},
    )
