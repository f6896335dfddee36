"""Large messages become letters, piece by piece."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.batch import Applier
from mirrorfeed.consumer.apply.large import PART_BYTES, LargeMessage
from mirrorfeed.consumer.apply.message import Message, Rejection
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.contract.reasons import Reason
from tests.servers import rows, wait_for_rows

PIECES = (b"", b"\0\xff\n\\", bytes(range(256)) * (PART_BYTES // 100), b"\t", b"")
HEADERS = {"naïve": [1, {"nul": "\0"}], "x-delivery-count": 1}


@pytest.mark.parametrize("pieces", [PIECES, (b"".join(PIECES),)])
def test_it_is_kept_byte_for_byte(engine: Engine, pieces: tuple[bytes, ...]) -> None:
    """With its headers, however it came in pieces."""
    tally = Applier(engine).bury_large(LargeMessage(pieces, HEADERS))
    (letter,) = rows(engine, "SELECT * FROM dead_letter")
    assert (tally.applied, tally.buried) == (0, {Reason.TOO_LARGE: 1})
    assert bytes(letter.body) == b"".join(pieces)
    assert letter.headers == {"naïve": [1, {"nul": "\ufffd"}], "x-delivery-count": 1}
    assert (letter.reason, letter.attempts, letter.state) == ("too-large", 1, "dead")
    assert letter.detail == (f"the body is {len(letter.body)} bytes; at most 65536 are allowed")


def test_it_is_kept_once_however_often_it_comes(engine: Engine) -> None:
    """Like any other message, and as the same letter."""
    applier = Applier(engine)
    applier.bury_large(LargeMessage(PIECES, HEADERS))
    applier.bury_large(LargeMessage((b"".join(PIECES),), {}, deliveries=2))
    applier.apply([Message(b"".join(PIECES), {}, Rejection(Reason.TOO_LARGE, "as others say"))])
    query = "SELECT attempts, detail FROM dead_letter"
    assert rows(engine, query) == [(4, "as others say")]


def test_a_letter_that_was_resolved_stays_so(engine: Engine) -> None:
    """An operator has decided."""
    applier = Applier(engine)
    applier.bury_large(LargeMessage(PIECES, {}))
    with engine.begin() as connection:
        connection.execute(text("UPDATE dead_letter SET state = 'discarded', resolved_at = now()"))
    applier.bury_large(LargeMessage(PIECES, {}))
    assert rows(engine, "SELECT attempts, state FROM dead_letter") == [(2, "discarded")]


@pytest.fixture
def other_engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


def test_a_connection_that_breaks_meanwhile_is_the_databases_trouble(
    engine: Engine, other_engine: Engine
) -> None:
    """The worker tries again, on a new connection."""
    applier = Applier(other_engine)
    with ThreadPoolExecutor(1) as threads, engine.connect() as blocker:
        blocker.execute(text("LOCK TABLE dead_letter IN SHARE MODE"))
        burying = threads.submit(applier.bury_large, LargeMessage(PIECES, {}))
        wait_for_rows(engine, f"SELECT count(*) {WAITING}", [(1,)])
        rows(engine, f"SELECT pg_terminate_backend(pid) {WAITING}")
        with pytest.raises(DBAPIError):
            burying.result()
        blocker.rollback()
        applier.bury_large(LargeMessage(PIECES, {}))
    assert rows(engine, "SELECT attempts FROM dead_letter") == [(1,)]


WAITING = """
    FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
