"""One connection to the broker, from opening to end, which publishes the spool's events."""

import logging
import time
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic

from mirrorfeed.amqp.connections import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED
from mirrorfeed.amqp.session import Session
from mirrorfeed.amqp.write_frames import MessageWriter, PlainWriter, message_writer
from mirrorfeed.contract import routing, wire
from mirrorfeed.contract.tracing import Spans
from mirrorfeed.publisher.errors import SpoolError
from mirrorfeed.publisher.forward.pace import STALL_SECONDS, Pace
from mirrorfeed.publisher.forward.pipeline import Pipeline
from mirrorfeed.publisher.forward.rhythm import POLL_SECONDS, Rhythm
from mirrorfeed.publisher.forward.watch import SpoolWatch
from mirrorfeed.publisher.kept import KeptEvents
from mirrorfeed.publisher.spool import Spool, SpooledEvent

USER_REFUSED = "user_id property set to"
"""RabbitMQ's reply contains this if a message names a user other than the connection's."""
TURN_SECONDS = 1.0
GIVE_WAY_SECONDS = 50e-6
"""How long a call in this process gets the interpreter between two events."""
REMOVE_SECONDS = 0.25
"""How long confirmed events stay in the spool, so that many are removed at once."""
RETRY_REMOVE_SECONDS = 1.0
HOLD_SECONDS = 0.5
MAX_HOLD_SECONDS = 10.0
NOT_KEPT = "confirmed events are not kept"
NOT_REMOVED = "confirmed events stay in the spool for now"

logger = logging.getLogger(__name__)


class PublishingSession(Session):
    """Publishes with confirms until the connection ends or `close` is called.

    Everything except `wake` and `close` runs in the thread that calls `run`.
    """

    def __init__(
        self,
        parameters: pika.URLParameters,
        spool: Spool,
        pipeline: Pipeline,
        kept: KeptEvents,
        on_ready: Callable[[], None],
        *,
        on_turn: Callable[[], object],
        on_poll: Callable[[], object],
        is_at_its_path: Callable[[], bool],
        is_awaited: Callable[[], bool],
        watch: SpoolWatch | None = None,
        gather_seconds: float = 0.0,
        names_user: bool = True,
        spans: Spans | None = None,
    ) -> None:
        """`on_ready` is called once events can be sent, `on_poll` now and then from then on, and
        `on_turn` every second. The session ends once the spool is not at its path any more, but not
        before it has sent what it can, or once events were put back that the `pipeline` cannot
        return to. While `is_awaited`, confirmed events are removed as soon as
        no other is outstanding. A `watch` of the spool's files spares it looking at them often
        while nothing happens. Events of calls are gathered for `gather_seconds`.

        With `names_user` each message names the user of the connection, which the broker checks
        (https://www.rabbitmq.com/docs/validated-user-id)."""
        self._spans = spans
        self._user_id = parameters.credentials.username if names_user else None
        self._spool = spool
        self._on_turn = on_turn
        self._on_poll = on_poll
        self._is_at_its_path = is_at_its_path
        self._is_awaited = is_awaited
        self._removed_at: float | None = None
        self._watch = watch
        self._is_armed = False
        self._rhythm = Rhythm(time.monotonic())
        self._poll_timer: object = None
        self.rests = False
        """Whether it leaves it to the watch to notice what others append. Any thread may ask."""
        self._pipeline = pipeline
        self._kept = kept
        self._to_keep: list[SpooledEvent] = []
        self._troubles: set[str] = set()  # those that were told of and go on
        self._pace = Pace(pipeline, gather_seconds=gather_seconds)
        self._tell_ready = on_ready
        self._channel: Any = None
        self._writer: MessageWriter | PlainWriter
        self._delivery_tag = 0
        self._hold_seconds = HOLD_SECONDS
        self._hold_timer: object = None
        self._remove_timer: object = None
        self.was_open = False
        self.was_useful = False
        super().__init__(SelectConnection, parameters)

    def run(self) -> None:
        """Returns when the connection has ended; `error` says why, or is None after `close`."""
        self._turn()
        try:
            self._run_loop()
        finally:
            self._remove_confirmed()
            self._watch_no_more()
            self._ioloop.close()

    def wake(self) -> None:
        """Something was appended to the spool. May be called from any thread."""
        if self._pace.appended(time.monotonic()):
            self._ioloop.add_callback_threadsafe(self._look)

    def hasten(self) -> None:
        """Somebody waits for events to be sent and removed. May be called from any thread."""
        self._ioloop.add_callback_threadsafe(self._hasten)

    def close(self) -> None:
        """Ends the session. May be called from any thread."""
        self._ioloop.add_callback_threadsafe(self._end)

    @property
    def is_open(self) -> bool:
        return self._channel is not None and bool(self._channel.is_open)

    @property
    def held_keys(self) -> int:
        """Of how many partition keys the broker did not take an event. Any thread may ask."""
        return len(self._pipeline.held)

    @property
    def refusal_code(self) -> int | None:
        """The AMQP reply code if the broker closed the channel because of an event, else None."""
        if not isinstance(self.error, ChannelClosedByBroker):
            return None
        code: int = self.error.reply_code
        return code if code in (ACCESS_REFUSED, PRECONDITION_FAILED) else None

    @property
    def is_not_set_up(self) -> bool:
        """Whether the broker does not have the exchange."""
        return isinstance(self.error, ChannelClosedByBroker) and self.error.reply_code == NOT_FOUND

    @property
    def refused_user(self) -> bool:
        """Whether the broker knows this connection's user by a different name than the login, as it
        does after a login with a token."""
        return self.refusal_code == PRECONDITION_FAILED and USER_REFUSED in str(self.error)

    def _turn(self) -> None:
        self._on_turn()
        self._leave_if_missed()
        self._ioloop.call_later(TURN_SECONDS, self._turn)

    def _leave_if_missed(self) -> None:
        """The next session reads the spool from its start."""
        try:
            if self._pipeline.has_missed():
                logger.info("events were put back into the spool: reading it from its start")
                self._end()
        except SpoolError as error:
            self._end(error)

    def _on_connection_open(self, connection: SelectConnection) -> None:
        connection.channel(on_open_callback=self._on_channel_open)

    def _on_channel_open(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_returned)
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._check_set_up(channel))

    def _check_set_up(self, channel: Any) -> None:
        """Without the exchange, the first event would end the channel. To ask needs no rights."""
        self.was_open = True
        channel.exchange_declare(
            routing.EVENTS_EXCHANGE, passive=True, callback=lambda _: self._on_ready(channel)
        )

    def _on_ready(self, channel: Any) -> None:
        logger.info("connected to the broker")
        self._tell_ready()
        if self._watch is not None:
            self._ioloop.add_handler(self._watch.fileno(), self._on_written, self._ioloop.READ)
        self._channel = channel
        self._writer = message_writer(
            channel,
            exchange=routing.EVENTS_EXCHANGE,
            content_type=wire.CONTENT_TYPE,
            user_id=self._user_id,
        )
        if self._pipeline.held:  # the broker did not allow these just now
            self._hold_seconds = MAX_HOLD_SECONDS
        self._await_held()
        self._poll()

    def _poll(self) -> None:
        self._poll_timer = None
        now = time.monotonic()
        if self._pace.is_stalled(now):
            self._pipeline.read_on()
        self._on_poll()
        self._arm(now)
        found = self._look()
        if found and self.rests:
            self._check_watch()
        self._leave_if_removed(now)
        is_busy = not self._pipeline.is_idle or self._pipeline.confirmed
        may_rest = self._is_armed and not is_busy and self._removed_at is None
        pause = self._rhythm.looked(now, has_found=found > 0, may_rest=may_rest)
        self.rests = pause > POLL_SECONDS
        self._poll_in(pause)

    def _poll_in(self, seconds: float) -> None:
        if self._poll_timer is not None:
            self._ioloop.remove_timeout(self._poll_timer)
        self._poll_timer = self._ioloop.call_later(seconds, self._poll)

    def _arm(self, now: float) -> None:
        """Before looking, so that nothing is missed. Calls in this process need no watch."""
        if self._watch is None or self._is_armed or self._rhythm.is_in_haste:
            return
        if self._pace.is_lull(now):
            try:
                self._watch.arm()
            except OSError:  # a file is not there: `_leave_if_removed` sees that, too
                return
            self._is_armed = True

    def _disarm(self) -> bool:
        """Whether the watch has told of something."""
        has_told = self._watch is not None and self._watch.disarm()
        self._is_armed = self._is_armed and not has_told
        return has_told

    def _on_written(self, _descriptor: int, _events: int) -> None:
        if self._disarm():
            self.rests = False
            self._poll_in(self._rhythm.written(time.monotonic()))

    def _check_watch(self) -> None:
        """There are new events, of which it should have told."""
        if not self._disarm():
            logger.warning("nobody tells when the spool is written to: looking at it all the time")
            self._watch_no_more()

    def _watch_no_more(self) -> None:
        if self._watch is not None and self._channel is not None:
            self._ioloop.remove_handler(self._watch.fileno())
        self._watch, self._is_armed = None, False

    def _leave_if_removed(self, now: float) -> None:
        """What calls put into the file before it was removed can still be read and sent."""
        if self._removed_at is None:
            if self._is_at_its_path():
                return
            logger.warning("the spool was removed or replaced: sending only what is left in it")
            self._removed_at = now
        waits = not self._pace.is_stalled(now) or now - self._removed_at < STALL_SECONDS
        if self._pipeline.is_idle or not waits:
            self._end()

    def _look(self) -> int:
        """Reads the spool for new events, then publishes; returns how many were published."""
        self._pace.begin_look()
        published = self._pump()
        if self._pace.end_look(published):
            self._ioloop.call_later(self._pace.linger_seconds, self._end_lingering)
        return published

    def _end_lingering(self) -> None:
        if self._pace.end_lingering():
            self._look()

    def _hasten(self) -> None:
        self._end_lingering()
        self._remove_if_awaited()

    def _pump(self) -> int:
        """Publishes every event that may be published now, and returns how many there were."""
        if not self.is_open:
            return 0
        count = 0
        told: list[bytes] | None = None if self._spans is None else []
        began_at = time.time()
        try:
            with self._writer:
                while (event := self._pipeline.take()) is not None:
                    # A lone event is sent without delay.
                    if count and self._pace.is_called(time.monotonic()):
                        time.sleep(GIVE_WAY_SECONDS)
                    self._publish(event)
                    count += 1
                    if told is not None:
                        told.append(event.body)
        except SpoolError as error:
            self._end(error)
        if self._spans is not None and told:
            self._spans.sent(routing.EVENTS_EXCHANGE, told, began_at)
        return count

    def _publish(self, event: SpooledEvent) -> None:
        routing_key = routing.routing_key(event.type, event.partition_key)
        self._writer.publish(routing_key, event.message_id, event.type, event.body)
        self._delivery_tag += 1
        self._pipeline.published(self._delivery_tag, event)

    def _on_returned(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._pipeline.returned(properties.message_id)

    def _on_confirm(self, frame: Any) -> None:
        self.was_useful = True
        tag, multiple = frame.method.delivery_tag, frame.method.multiple
        if isinstance(frame.method, Basic.Nack):
            self._pipeline.nacked(tag, multiple=multiple)
        else:
            self._to_keep += self._pipeline.acked(tag, multiple=multiple)
        self._await_held()
        if self._pipeline.confirmed and self._remove_timer is None:
            self._hold_seconds = HOLD_SECONDS
            self._remove_timer = self._ioloop.call_later(REMOVE_SECONDS, self._tidy_up)
        self._remove_if_awaited()
        if self._pace.confirmed(time.monotonic()):
            self._look()
        else:
            self._pump()

    def _await_held(self) -> None:
        if self._pipeline.held and self._hold_timer is None:
            self._hold_timer = self._ioloop.call_later(self._hold_seconds, self._retry_held)

    def _retry_held(self) -> None:
        logger.warning(
            "%d events were not taken, for want of a queue, of room in it, or of the right to"
            " publish; trying again (is the broker set up? see mirror-consumer init)",
            len(self._pipeline.held),
        )
        self._hold_timer = None
        self._hold_seconds = min(2 * self._hold_seconds, MAX_HOLD_SECONDS)
        self._pipeline.retry_held()
        self._pump()

    def _remove_if_awaited(self) -> None:
        if self._pipeline.confirmed and self._pipeline.is_idle and self._is_awaited():
            if self._remove_timer is not None:
                self._ioloop.remove_timeout(self._remove_timer)
            self._tidy_up()

    def _tidy_up(self) -> None:
        self._remove_confirmed()
        self._rhythm.stirred(time.monotonic())
        # This was written by us. Should anybody else have written meanwhile, a look finds it.
        if self._disarm() or self.rests:
            self._poll_in(0.0)

    def _remove_confirmed(self) -> None:
        self._remove_timer = None
        self._keep_confirmed()
        try:
            self._spool.remove(self._pipeline.confirmed)
        except SpoolError as error:
            # Nothing is wrong yet: at worst they are sent again. A full disk must not stop sending.
            self._warn_once(NOT_REMOVED, error)
            self._remove_timer = self._ioloop.call_later(RETRY_REMOVE_SECONDS, self._tidy_up)
        else:
            self._troubles.discard(NOT_REMOVED)
            self._pipeline.confirmed.clear()

    def _keep_confirmed(self) -> None:
        if not self._to_keep:
            return
        try:
            self._kept.add(self._to_keep)
        except OSError as error:  # it is a help in need, and no more
            self._warn_once(NOT_KEPT, error)
        else:
            self._troubles.discard(NOT_KEPT)
        self._to_keep.clear()

    def _warn_once(self, trouble: str, error: Exception) -> None:
        """Not again before what failed has worked: it is tried several times a second."""
        if trouble not in self._troubles:
            self._troubles.add(trouble)
            logger.warning("%s: %s", trouble, error)
