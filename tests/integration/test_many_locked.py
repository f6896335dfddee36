"""However many rows somebody has locked: that is found out at once, and told once."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine

from mirrorfeed.consumer.apply.applier import Applier, Tally
from mirrorfeed.consumer.apply.message import read_message
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.worker import applying
from mirrorfeed.consumer.worker.applying import Applying
from mirrorfeed.consumer.worker.inbox import Delivery, Inbox, Subscription, Suspect
from mirrorfeed.consumer.worker.progress import Progress
from mirrorfeed.contract.events import Envelope
from tests.builders import completed, failed, messages, started
from tests.servers import executed_statements, locked, register_branches, rows

LOCKED = range(1, 41)
FREE = 41
LOCK_ATTEMPTS = "UPDATE mirror_attempt SET failure_reason = failure_reason"
LOCK_BRANCHES = f"UPDATE branch SET url = 'x' WHERE id <> {FREE}"

OnSettled = Callable[[Sequence[Delivery], Tally, bool], None]


@pytest.fixture
def impatient(engine: Engine, database_url: str) -> Iterator[Engine]:
    """A worker's sessions, which wait for a lock for a moment. Of the branches all but one have an
    attempt."""
    register_branches(engine, *LOCKED, FREE)
    worker = open_engine(database_url, lock_timeout_seconds=0.1)
    Applier(worker).apply(messages(*(started(each, 0) for each in LOCKED)))
    yield worker
    worker.dispose()


def work(engine: Engine, inbox: Inbox, on_settled: OnSettled) -> None:
    """Until the inbox is closed."""
    Applying(
        inbox,
        Applier(engine),
        lambda suspect: read_message(suspect.body),
        on_settled,
        threading.Event(),
        Progress(),
    ).run()


def put(inbox: Inbox, *envelopes: Envelope, is_suspect: bool = False) -> None:
    subscription = Subscription("mirror.events.p0", prefetch=1)
    for tag, message in enumerate(messages(*envelopes), start=1):
        suspect = Suspect(message.body, properties=None)
        inbox.put(Delivery(suspect if is_suspect else message, subscription, tag, 1, is_suspect))


@pytest.mark.parametrize("statement", [LOCK_ATTEMPTS, LOCK_BRANCHES], ids=["attempts", "branches"])
def test_all_that_is_locked_is_set_aside_in_one_step(
    engine: Engine, impatient: Engine, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    """What is left is applied at once, and the log has one line for all of them."""
    inbox = Inbox(100)
    put(inbox, *(completed(each, 0, "r") for each in LOCKED), failed(FREE, 0, "no route"))
    with locked(engine, statement), executed_statements(impatient) as executed:
        work(impatient, inbox, lambda *_: inbox.close())
    assert rows(engine, "SELECT branch_id FROM mirror_attempt WHERE outcome IS NOT NULL") == [
        (FREE,)
    ]
    # Of what is left, and of what finds out who holds the lock.
    assert sum("lock_timeout" in each for each in executed) == 2
    (line,) = [each for each in caplog.records if each.message == "waiting for a lock"]
    assert vars(line)["waiting"].endswith(f"branch:10 and {len(LOCKED) - 10} more")


def test_all_that_was_locked_is_applied_once_it_is_free(
    engine: Engine, impatient: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look that finds it free applies it, if there is time."""
    monkeypatch.setattr(applying, "ASIDE_RETRY_SECONDS", 0)
    monkeypatch.setattr(applying, "MAX_ASIDE_RETRY_SECONDS", 0)
    monkeypatch.setattr(applying, "LOOK_SECONDS", 60)
    inbox = Inbox(100)
    put(inbox, *(completed(each, 0, "r") for each in LOCKED), failed(FREE, 0, "no route"))
    settled: list[Delivery] = []
    with ExitStack() as somebody, executed_statements(impatient) as executed:
        somebody.enter_context(locked(engine, LOCK_ATTEMPTS))

        def on_settled(deliveries: Sequence[Delivery], tally: Tally, all_before: bool) -> None:
            settled.extend(deliveries)
            somebody.close()
            if len(settled) == len(LOCKED) + 1:
                inbox.close()

        work(impatient, inbox, on_settled)
    query = "SELECT outcome, count(*) FROM mirror_attempt GROUP BY outcome ORDER BY outcome"
    assert rows(engine, query) == [("completed", len(LOCKED)), ("failed", 1)]
    assert sum("SKIP LOCKED" in each and "mirror_attempt" in each for each in executed) == 2


def test_suspects_behind_what_is_locked_are_not_tried_one_by_one(
    engine: Engine, impatient: Engine
) -> None:
    """After a worker has ended there may be thousands of them. One trial finds out which have to
    wait, and the others are applied in another one."""
    inbox = Inbox(len(LOCKED))
    put(inbox, *(completed(each, 0, "r") for each in LOCKED), is_suspect=True)
    put(inbox, *(started(each, 10) for each in LOCKED[1:]), started(FREE, 10), is_suspect=True)
    with locked(engine, LOCK_ATTEMPTS), executed_statements(impatient) as executed:
        work(impatient, inbox, lambda *_: inbox.close())
    assert rows(engine, "SELECT count(*) FROM mirror_attempt") == [(len(LOCKED) + 1,)]
    # The first batch's, those two, and one of nothing, to see whether the table is locked.
    assert sum("INSERT INTO suspect" in each for each in executed) == 4
