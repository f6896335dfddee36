"""What waits for a lock waits alone, in order, and is settled once."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.errors import LockNotAvailable
from sqlalchemy.exc import OperationalError

from mirrorfeed.consumer.apply.applier import Applier, Tally
from mirrorfeed.consumer.apply.message import Message, branch_ids_of, read_message
from mirrorfeed.consumer.apply.suspects import MustBeAlone
from mirrorfeed.consumer.worker import applying
from mirrorfeed.consumer.worker.applying import Applying
from mirrorfeed.consumer.worker.inbox import Delivery, Inbox, Subscription, Suspect
from mirrorfeed.consumer.worker.progress import Progress
from tests.builders import messages, started

BATCH = 4


class LockedDatabase:
    """An applier that counts what it is asked. A branch is locked until that count reaches its
    number; of the odd branches it is something that nobody can foresee."""

    def __init__(self, locked_until: dict[int, int]) -> None:
        self._locked_until = locked_until
        self._asked = 0
        self.tried: list[set[int]] = []
        """The branches of each batch."""

    def apply(self, batch: Sequence[Message], lock_timeout_seconds: float | None) -> Tally:
        self._asked += 1
        self.tried.append(branch_ids_of(batch))
        if any(map(self._is_locked, branch_ids_of(batch))):
            raise OperationalError("", {}, LockNotAvailable())
        return Tally(len(batch), cast("Any", {}))

    def apply_suspects(
        self,
        bodies: Sequence[bytes],
        read: Callable[[], Sequence[Message]],
        lock_timeout_seconds: float | None,
    ) -> Tally:
        """Some may have killed a worker: those of which the last byte but two is odd."""
        known = [body[-3] % 2 == 1 for body in bodies]
        if len(bodies) > 1 and any(known):
            raise MustBeAlone(known)
        return self.apply(read(), lock_timeout_seconds)

    def check(self) -> None:
        """No table is locked."""

    def locked_branches(self, batch: Sequence[Message]) -> set[int]:
        self._asked += 1
        ids = branch_ids_of(batch)
        return {each for each in ids if each % 2 == 0 and self._is_locked(each)}

    def blockers(self, batch: Sequence[Message]) -> list[object]:
        return []

    def _is_locked(self, branch_id: int) -> bool:
        return self._asked <= self._locked_until.get(branch_id, 0)


@pytest.fixture(autouse=True, params=["enough time", "no time"])
def retry_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "ASIDE_RETRY_SECONDS", 0)
    monkeypatch.setattr(applying, "MAX_ASIDE_RETRY_SECONDS", 0)
    if request.param == "no time":
        monkeypatch.setattr(applying, "DIVIDING_SECONDS", 0)
        monkeypatch.setattr(applying, "LOOK_SECONDS", 0)


def delivered(branch_id: int, tag: int, is_suspect: bool) -> Delivery:
    (message,) = messages(started(branch_id, tag))
    subscription = Subscription("mirror.events.p0", prefetch=1)
    suspect = Suspect(message.body, properties=None)
    return Delivery(suspect if is_suspect else message, subscription, tag, 1, is_suspect)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=30),
    st.dictionaries(st.integers(1, 6), st.integers(0, 40), max_size=4),
)
def test_each_delivery_is_settled_once_and_in_the_order_of_its_branch(
    history: list[tuple[int, bool]], locked_until: dict[int, int]
) -> None:
    """Whatever is locked for however long. Until then it is in hand, and an ack of everything
    before covers nothing that is."""
    inbox = Inbox(BATCH)
    settled: list[int] = []
    uncovered: list[int] = []

    def on_settled(deliveries: Sequence[Delivery], tally: Tally, all_before: bool) -> None:
        assert not subject.is_idle
        settled.extend(each.delivery_tag for each in deliveries)
        if all_before:
            uncovered.extend(set(range(1, max(settled[-len(deliveries) :]))) - set(settled))
        if len(settled) == len(history):
            inbox.close()

    for tag, (branch_id, is_suspect) in enumerate(history, start=1):
        inbox.put(delivered(branch_id, tag, is_suspect))
    applier = cast("Applier", LockedDatabase(locked_until))
    subject = Applying(
        inbox,
        applier,
        lambda suspect: read_message(suspect.body),
        on_settled,
        threading.Event(),
        Progress(),
    )
    if history:
        subject.run()
    assert uncovered == []
    assert sorted(settled) == list(range(1, len(history) + 1))
    for branch_id in range(1, 7):
        tags = [tag for tag in settled if history[tag - 1][0] == branch_id]
        assert tags == sorted(tags)


def test_what_is_not_locked_is_settled_before_what_is() -> None:
    """That is so for its own batch and for the ones after it."""
    settled: list[int] = []
    inbox = Inbox(BATCH)
    for tag in range(1, 13):
        inbox.put(delivered(1 + tag % 2, tag, is_suspect=False))

    def on_settled(deliveries: Sequence[Delivery], tally: Tally, all_before: bool) -> None:
        settled.extend(each.delivery_tag for each in deliveries)
        if len(settled) == 12:
            inbox.close()

    applier = cast("Applier", LockedDatabase({2: 40}))
    Applying(inbox, applier, cast("Any", None), on_settled, threading.Event(), Progress()).run()
    assert settled == [2, 4, 6, 8, 10, 12, 1, 3, 5, 7, 9, 11]


def test_each_that_waits_has_its_turn() -> None:
    """Those that are not known to be free or locked are tried one after the other, whether or not
    there is time for all of them at once."""
    inbox = Inbox(BATCH)
    for tag, branch_id in enumerate((1, 3, 5), start=1):
        inbox.put(delivered(branch_id, tag, is_suspect=False))
    settled: list[int] = []

    def on_settled(deliveries: Sequence[Delivery], tally: Tally, all_before: bool) -> None:
        settled.extend(each.delivery_tag for each in deliveries)
        if len(settled) == 3:
            inbox.close()

    database = LockedDatabase({1: 60, 3: 60, 5: 60})
    applier = cast("Applier", database)
    Applying(inbox, applier, cast("Any", None), on_settled, threading.Event(), Progress()).run()
    alone = [branch_id for tried in database.tried if len(tried) == 1 for branch_id in tried]
    turns = zip(alone, alone[1:], alone[2:], strict=False)
    assert all(set(turn) == {1, 3, 5} for turn in turns)
