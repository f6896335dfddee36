"""The applier thread: what the inbox gives out is committed, and then settled.

A batch that waits for a lock is taken apart. What is not locked is applied; the rest waits aside,
key by key and in order, and is tried again now and then. So a row that somebody has locked holds up
only its own branch.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby

from msgspec import Struct
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.applier import Applier, Tally
from mirrorfeed.consumer.apply.message import Message, branch_id_of
from mirrorfeed.consumer.apply.suspects import MustBeAlone, MustWait
from mirrorfeed.consumer.database import first_line, is_lock_timeout
from mirrorfeed.consumer.errors import DatabaseUnavailable
from mirrorfeed.consumer.worker.aside import Aside
from mirrorfeed.consumer.worker.inbox import Delivery, Inbox, Suspect
from mirrorfeed.consumer.worker.patience import Patience
from mirrorfeed.consumer.worker.progress import Progress
from mirrorfeed.contract import routing
from mirrorfeed.contract.events import Envelope
from mirrorfeed.contract.tracing import Spans

RETRY_TIMEOUT_SECONDS = 300.0
"""How long a batch is retried before its deliveries go back to the broker, which would take them
back after 30 minutes (`consumer_timeout`)."""
ASIDE_TIMEOUT_SECONDS = 1200.0
"""How long a delivery waits for a lock before it goes back, for the same reason."""
ASIDE_RETRY_SECONDS = 1.0
MAX_ASIDE_RETRY_SECONDS = 30.0
LOOK_SECONDS = 1.0
"""How long what waits aside is tried at a time. The rest of it has its turn the next time."""
DIVIDING_SECONDS = 10.0
"""How long a batch is divided. What has not been tried by then waits aside, too."""
DIVIDED_LOCK_TIMEOUT_SECONDS = 0.1
"""How long the parts of a divided batch wait for a lock."""
REMINDER_SECONDS = 60.0
LETTERS = "letters"
"""Where messages that cannot be applied wait together."""
LISTED = 10

logger = logging.getLogger(__name__)


class Part(Struct, frozen=True):
    """What is applied in one transaction."""

    deliveries: Sequence[Delivery]
    is_divided: bool = False
    """Whether the branches that are locked have been set aside already."""


class Applying:
    """Applies what is in the inbox until that is closed. `run` is for a thread of its own."""

    def __init__(
        self,
        inbox: Inbox,
        applier: Applier,
        read: Callable[[Suspect], Message],
        settled: Callable[[Sequence[Delivery], Tally, bool], None],
        closing: threading.Event,
        progress: Progress,
        spans: Spans | None = None,
    ) -> None:
        """`read` decodes a message that was delivered before. `settled` is told which deliveries
        are committed, and whether all that were taken before them are. `closing` ends retries."""
        self._inbox = inbox
        self._applier = applier
        self._read = read
        self._settled = settled
        self._progress = progress
        self._spans = spans
        self._patience = Patience(
            "the database",
            closing,
            RETRY_TIMEOUT_SECONDS,
            progress.counts.retried,
            retrying=progress.retry,
        )
        self._aside = Aside()
        self._unreported: list[Delivery] = []
        """What the batch in hand has set aside."""
        self._look_at = 0.0
        self._remind_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand. From any thread."""
        return self._inbox.is_idle and self._aside.is_empty

    def run(self) -> None:
        """Raises DBAPIError if the database stays in trouble, DatabaseUnavailable if something
        stays locked."""
        while not self._inbox.is_closed:
            batch = self._inbox.take(ASIDE_RETRY_SECONDS if self._aside else None)
            if batch:
                self._progress.batch_began()
                self._work([Part(batch)])
                self._progress.batch_ended(len(batch))
            if self._aside and time.monotonic() >= self._look_at and not self._inbox.is_closed:
                self._look_aside()

    def _work(self, parts: list[Part]) -> None:
        divide_until = time.monotonic() + DIVIDING_SECONDS
        while parts:
            part, *others = parts
            parts = [*self._patience(self._apply, part), *others]
            if time.monotonic() > divide_until:
                for each in parts:
                    if each.is_divided:
                        self._set_aside(self._by_key(each))
                parts = [each for each in parts if not each.is_divided]
        if self._unreported:
            self._report("waiting for a lock", self._unreported)
            self._unreported = []

    def _apply(self, part: Part) -> list[Part]:
        """Applies the part, and returns no others; or returns those to apply instead of it."""
        if self._aside and (free := self._hold_back(part)) is not part:
            return [free] if free.deliveries else []
        try:
            tally = self._commit(part)
        except MustWait:
            free = self._hold_back(part, is_read=True)
            return [free] if free.deliveries else []
        except MustBeAlone as must:
            return _separated(part, must.those)
        except DBAPIError as error:
            if not is_lock_timeout(error):
                raise
            return self._divide(part, error)
        self._settled(part.deliveries, tally, not part.is_divided and not self._aside)
        return []

    def _commit(self, part: Part) -> Tally:
        if self._spans is None:
            return self._commit_part(part)
        bodies = [delivery.message.body for delivery in part.deliveries]
        with self._spans.processing(routing.EVENTS_EXCHANGE, bodies):
            return self._commit_part(part)

    def _commit_part(self, part: Part) -> Tally:
        messages: list[Message] = []
        suspects: list[Suspect] = []
        for delivery in part.deliveries:
            message = delivery.message
            if isinstance(message, Suspect):
                suspects.append(message)
            else:
                messages.append(message)
        lock_timeout_seconds = DIVIDED_LOCK_TIMEOUT_SECONDS if part.is_divided else None
        if suspects:  # and nothing else
            bodies = [suspect.body for suspect in suspects]
            return self._applier.apply_suspects(
                bodies, lambda: self._read_free(suspects), lock_timeout_seconds
            )
        return self._applier.apply(messages, lock_timeout_seconds)

    def _hold_back(self, part: Part, *, is_read: bool = False) -> Part:
        """The part without what comes behind something that waits: that waits too. Of suspects
        nobody knows that before they have been read in a trial."""
        free: list[Delivery] = []
        for delivery in part.deliveries:
            is_unread = delivery.is_suspect and not is_read
            if is_unread or (key := _key(self._message(delivery))) not in self._aside.groups:
                free.append(delivery)
            else:
                self._aside.put(key, [delivery])
        return part if len(free) == len(part.deliveries) else Part(free, part.is_divided)

    def _read_free(self, suspects: Sequence[Suspect]) -> list[Message]:
        """Decodes all of them. Raises MustWait if any comes behind something that waits."""
        messages = list(map(self._read, suspects))
        if any(_key(message) in self._aside.groups for message in messages):
            raise MustWait
        return messages

    def _divide(self, part: Part, error: DBAPIError) -> list[Part]:
        """Something that the part needs is locked: sets it aside, or looks for it by halves.

        Raises DatabaseUnavailable if a whole table is locked, so that everything has to wait.
        """
        groups = self._by_key(part)
        locked: set[str] = set()
        if not part.is_divided:
            try:
                self._applier.check()
            except DatabaseUnavailable:
                locked_by = ", ".join(self._blockers(part.deliveries))
                raise DatabaseUnavailable(f"{first_line(error)}: locked by {locked_by}") from error
            locked = self._locked(groups)
        if len(groups) == 1:
            locked = set(groups)
        if locked:
            self._set_aside({key: groups.pop(key) for key in list(groups) if key in locked})
            halves = [list(groups.values())]
        else:
            halves = [list(groups.values())[::2], list(groups.values())[1::2]]
        return [Part(list(chain(*half)), is_divided=True) for half in halves if half]

    def _by_key(self, part: Part) -> dict[str, list[Delivery]]:
        groups: dict[str, list[Delivery]] = {}
        for delivery in part.deliveries:
            groups.setdefault(_key(self._message(delivery)), []).append(delivery)
        return groups

    def _set_aside(self, groups: Mapping[str, Sequence[Delivery]]) -> None:
        for key, deliveries in groups.items():
            if not self._aside.has_waited(key):
                self._unreported += deliveries
            self._aside.put(key, deliveries)

    def _look_aside(self) -> None:
        """Tries again what waits aside, each in its turn, but not what is known to be locked."""
        began_at = time.monotonic()
        if self._aside.waited_seconds > ASIDE_TIMEOUT_SECONDS:
            raise DatabaseUnavailable(
                f"another session of the database has locked {self._listed()} for"
                f" {ASIDE_TIMEOUT_SECONDS / 60:.0f} minutes"
            )
        locked = self._patience(self._locked, self._aside.groups)
        waited_seconds = self._aside.waited_seconds
        tried_at = time.monotonic()
        lost_seconds = tried_at - began_at
        try_until = tried_at + LOOK_SECONDS
        for key in [key for key in self._aside.groups if key not in locked]:
            is_lost = not self._try_again(key, try_until)
            now = time.monotonic()
            if is_lost:
                lost_seconds += now - tried_at
            tried_at = now
            if now > try_until:
                break
        self._aside.forget()
        if not self._aside:
            self._progress.aside.ends()
            logger.info("no longer waiting for a lock", extra={"seconds": round(waited_seconds)})
        elif began_at >= self._remind_at:
            key = min(locked, default=next(reversed(self._aside.groups)))
            self._report("still waiting for a lock", self._aside.groups[key])
        # However many are locked, most of the time is for the others.
        pause_seconds = max(ASIDE_RETRY_SECONDS, 10 * lost_seconds)
        self._look_at = time.monotonic() + min(pause_seconds, MAX_ASIDE_RETRY_SECONDS)

    def _try_again(self, key: str, until: float) -> bool:
        """Applies what waits of this key until time is up, or something of it is locked: the rest
        waits behind all other keys. Returns whether anything was applied."""
        # A suspect is tried alone.
        runs = groupby(self._aside.take(key), lambda each: each.is_suspect and each.delivery_tag)
        first, *others = [Part(list(deliveries), is_divided=True) for _, deliveries in runs]
        self._work([first])
        is_applied = key not in self._aside.groups
        for part in others:
            if key in self._aside.groups or time.monotonic() > until:
                self._aside.put(key, part.deliveries)
            else:
                self._work([part])
        return is_applied

    def _locked(self, groups: Mapping[str, Sequence[Delivery]]) -> set[str]:
        """Those of which the branch or an attempt is locked. If it is something else of theirs,
        they are not found."""
        messages = [self._message(each) for each in chain(*groups.values())]
        locked = self._applier.locked_branches(messages)
        return {
            key
            for key, deliveries in groups.items()
            if _branch_id(self._message(deliveries[0])) in locked
        }

    def _message(self, delivery: Delivery) -> Message:
        message = delivery.message
        return self._read(message) if isinstance(message, Suspect) else message

    def _report(self, what: str, deliveries: Sequence[Delivery]) -> None:
        self._remind_at = time.monotonic() + REMINDER_SECONDS
        locked_by = self._blockers(deliveries)
        self._progress.aside.goes_on(f"{self._listed()} locked by {', '.join(locked_by)}")
        logger.warning(what, extra={"waiting": self._listed(), "locked_by": locked_by})

    def _blockers(self, deliveries: Sequence[Delivery]) -> list[str]:
        """Who has locked what these need, as far as the database says."""
        try:
            messages = [self._message(each) for each in deliveries]
            return [str(blocker) for blocker in self._applier.blockers(messages)]
        except DBAPIError as error:
            return [f"a session that cannot be found: {first_line(error)}"]

    def _listed(self) -> str:
        keys = list(self._aside.groups)
        more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
        return ", ".join(keys[:LISTED]) + more


def _separated(part: Part, alone: Sequence[bool]) -> list[Part]:
    """The part's deliveries in order: these alone, those between them together."""
    parts: list[Part] = []
    for is_alone, group in groupby(zip(alone, part.deliveries, strict=True), lambda each: each[0]):
        deliveries = [delivery for _, delivery in group]
        pieces = [[each] for each in deliveries] if is_alone else [deliveries]
        parts += [Part(piece, part.is_divided) for piece in pieces]
    return parts


def _key(message: Message) -> str:
    """What must stay in order."""
    content = message.content
    return content.partition_key if isinstance(content, Envelope) else LETTERS


def _branch_id(message: Message) -> int | None:
    content = message.content
    return branch_id_of(content.event) if isinstance(content, Envelope) else None
