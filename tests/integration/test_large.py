"""Large messages become letters, and no command has many of them in memory."""

import json
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.large import PART_BYTES, LargeMessage
from mirrorfeed.consumer.apply.message import Message, Rejection, redeliveries
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.dead_letters.plan import plan
from mirrorfeed.consumer.dead_letters.replay import try_letters
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.consumer.dead_letters.transfer import exported, import_lines
from mirrorfeed.consumer.operations.perform import apply_planned
from mirrorfeed.contract.reasons import Reason
from tests.commands import Shell
from tests.servers import rows, wait_for_rows

PIECES = (b"", b"\0\xff\n\\", bytes(range(256)) * (PART_BYTES // 100), b"\t", b"")
LARGE = 2 * 1024 * 1024
LETTERS = 12
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


@pytest.mark.parametrize("forged", [2**31 - 1, 2**40, -(2**63)])
def test_it_is_kept_whatever_its_headers_count(engine: Engine, forged: int) -> None:
    """A publisher can put any number where the broker counts deliveries."""
    headers = {"x-delivery-count": forged}
    applier = Applier(engine)
    for _ in range(2):
        applier.bury_large(LargeMessage(PIECES, headers, redeliveries(headers)))
    assert rows(engine, "SELECT attempts FROM dead_letter") == [(4,)]


def test_a_letter_that_was_resolved_stays_so(engine: Engine) -> None:
    """An operator has decided."""
    applier = Applier(engine)
    applier.bury_large(LargeMessage(PIECES, {}))
    with engine.begin() as connection:
        connection.execute(text("UPDATE dead_letter SET state = 'discarded', resolved_at = now()"))
    applier.bury_large(LargeMessage(PIECES, {}))
    assert rows(engine, "SELECT attempts, state FROM dead_letter") == [(2, "discarded")]


COLUMNS = """
    reason, detail, body, original_body, headers, source, event_id, type, branch_id,
    first_seen_at, attempts, note
"""


@pytest.fixture
def large_letters(engine: Engine) -> Engine:
    """A database with large letters: one has all that a letter can have."""
    with engine.begin() as connection:
        connection.execute(
            text(f"""
                INSERT INTO dead_letter ({COLUMNS})
                SELECT 'too-large', 'naïve "body":""', decode(repeat('00', {LARGE}), 'hex'),
                    CAST(number || repeat('x', {LARGE}) AS bytea), '{{"a": [1, null]}}', '/s',
                    'id', 'script.run', 2^40, '1999-12-31 23:59:59.999999Z', 7, 'note'
                FROM generate_series(1, {LETTERS}) AS number
            """)
        )
    return engine


def test_letters_are_exported_and_imported_one_at_a_time(large_letters: Engine) -> None:
    """Each of them complete, and none twice."""
    engine = large_letters
    before = rows(engine, f"SELECT {COLUMNS} FROM dead_letter ORDER BY id")
    with engine.begin() as connection, at_most_in_memory(20 * LARGE):
        # As `mirror-replay export` writes them.
        letters = map(json.dumps, exported(connection, Selection()))
        lines = [zlib.compress(letter.encode()) for letter in letters]
    with engine.begin() as connection, at_most_in_memory(20 * LARGE):
        assert import_lines(connection, map(zlib.decompress, lines)) == (0, LETTERS)
        connection.execute(text("TRUNCATE dead_letter"))
        lines.append(lines[0])
        assert import_lines(connection, map(zlib.decompress, lines)) == (LETTERS, 1)
    assert rows(engine, f"SELECT {COLUMNS} FROM dead_letter ORDER BY id") == before


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_replay_reads_little_of_large_letters(large_letters: Engine, dry_run: bool) -> None:
    """They stay dead, whatever is in them."""
    with at_most_in_memory(6 * LARGE):
        with large_letters.connect() as connection:
            planned = plan(connection, Selection())
        if dry_run:
            found = [each.outcomes for each in try_letters(large_letters, planned)]
        else:
            steps = apply_planned(large_letters, planned, "tester", threading.Event())
            found = [list(each.outcomes) for each in steps]
    outcomes = [each for step in found for each in step]
    assert [each.reason for each in outcomes] == [Reason.TOO_LARGE] * LETTERS
    assert outcomes[0].detail == f"the body is {LARGE} bytes; at most 65536 are allowed"


def test_little_of_a_large_letter_is_shown(shell: Shell, large_letters: Engine) -> None:
    """Its beginning, and how to see the rest; it is too large for an editor."""
    shown = shell.run("mirror-replay", "show", "1").stdout
    assert len(shown) < LARGE
    assert f"only the first 65,536 of {LARGE:,} bytes are shown: mirror-replay export 1" in shown
    edited = shell.run("mirror-replay", "edit", "1", expect=1).stderr
    assert f"the body is {LARGE} bytes, too large to edit" in edited


@contextmanager
def at_most_in_memory(size_bytes: int) -> Iterator[None]:
    """Fails if Python's objects take more at some moment in the block."""
    tracemalloc.start()
    try:
        yield
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < size_bytes


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
