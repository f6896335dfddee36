"""What the ledger says has arrived, and what is missing."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply import ledger, reporters
from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.batch import write_batch
from mirrorfeed.consumer.apply.ledger import FOLD, TRY_LOCK, arrivals_of, fold, fold_piece
from mirrorfeed.consumer.apply.message import Limits, Message, read_message
from mirrorfeed.consumer.apply.reporters import remembered_numbers
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.sources.audit import SourceAccount, audit
from mirrorfeed.contract import wire
from mirrorfeed.contract.events import MAX_SEQUENCE, Envelope, MirrorFailed, MirrorStarted
from tests.builders import at, failed, messages
from tests.servers import PATIENCE_SECONDS, register_branches, rows

BRANCH = 7
fresh_sources = (f"/pullers/vostok/{number}" for number in count())
MORE = st.integers(1, 3 * ledger.BLOCK)
chunks = st.lists(
    st.one_of(st.lists(st.integers(1, 30), max_size=12), st.just("fold")), max_size=12
)
runs = st.builds(lambda first, length: [*range(first, first + length)], MORE, MORE)
"""Of which many fill whole blocks."""
noted = st.tuples(
    st.sampled_from(["/a", "/b"]),
    st.one_of(st.lists(st.integers(1, 30), max_size=8), runs),
    st.integers(0, 9),
)
"""A source, numbers of it, and the second in which they arrived."""


def numbered(
    source: str, sequences: Iterable[int], spool: str = "id", branch_id: int = BRANCH
) -> list[Message]:
    """Events as a spool that speaks as this source sends them: not every spool should."""
    return [
        read_message(
            wire.encode(
                Envelope(
                    f"{spool}-{sequence}", source, at(0), MirrorStarted(branch_id, at(0)), sequence
                )
            ),
            limits=Limits(highest_sequence=MAX_SEQUENCE),
        )
        for sequence in sequences
    ]


def note(engine: Engine, source: str, sequences: Iterable[int], spool: str = "id") -> None:
    with engine.begin() as connection:
        messages = numbered(source, sequences, spool)
        write_batch(connection, messages, arrivals_of(messages), {})


def account(engine: Engine, source: str, grace_seconds: float = 0.0) -> SourceAccount | None:
    with engine.connect() as connection:
        accounts = audit(connection, grace_seconds=grace_seconds).accounts
    return next((each for each in accounts if each.source == source), None)


def missing(engine: Engine, source: str) -> list[tuple[int, int]]:
    found = account(engine, source)
    assert found is not None
    return [(each.first, each.last) for each in found.missing]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=chunks)
def test_the_account_is_that_of_a_set_of_numbers(
    engine: Engine, history: list[list[int] | str]
) -> None:
    """Order, repetition, batches and folds make no difference."""
    source = next(fresh_sources)
    arrived: set[int] = set()
    for step in history:
        if isinstance(step, str):
            assert fold(engine)
        else:
            note(engine, source, step)
            arrived.update(step)
    found = account(engine, source)
    if not arrived:
        assert found is None
        return
    assert found is not None
    assert found.highest == max(arrived)
    assert found.received == len(arrived)
    told = [n for each in found.missing for n in range(each.first, each.last + 1)]
    assert told == [n for n in range(1, max(arrived)) if n not in arrived]
    assert found.missing_events == len(told)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.lists(st.one_of(noted, st.just("piece")), max_size=20),
    notes=st.integers(1, 3),
    size_bytes=st.integers(1, 200),
)
def test_pieces_come_to_the_ranges_of_a_set(
    engine: Engine, history: list[tuple[str, list[int], int] | str], notes: int, size_bytes: int
) -> None:
    """However small they are, and whatever is noted between them. No number counts twice, or is
    missing, after any of them; a range is as old as the first of its numbers that arrived."""
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE ledger_arrival, source CASCADE"))
    arrived: dict[str, dict[int, datetime]] = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ledger, "PIECE_NOTES", notes)
        monkeypatch.setattr(ledger, "PIECE_BYTES", size_bytes)
        for step in history:
            if isinstance(step, str):
                waiting = rows(engine, "SELECT count(*) FROM ledger_arrival")[0][0]
                folded = fold_piece(engine)
                assert folded is not None
                assert min(waiting, 1) <= folded.notes <= notes
            else:
                source, numbers, second = step
                with engine.begin() as connection:
                    connection.execute(
                        text("INSERT INTO ledger_arrival VALUES (:source, :numbers, :at, :ids)"),
                        {
                            "source": source,
                            "numbers": numbers,
                            "at": at(second),
                            "ids": numbers if source == "/a" else None,
                        },
                    )
                first_at = arrived.setdefault(source, {})
                for number in numbers:
                    first_at[number] = min(at(second), first_at.get(number, at(second)))
            assert known_numbers(engine) == {
                (source, number) for source in arrived for number in arrived[source]
            }
        assert fold(engine)
    assert rows(engine, "SELECT count(*) FROM ledger_arrival") == [(0,)]
    assert rows(engine, RANGES) == [
        (source, *each) for source in sorted(arrived) for each in ranges_of(arrived[source])
    ]


RANGES = """
    SELECT uri, first, last, ledger_range.recorded_at
    FROM ledger_range JOIN source ON id = source_id ORDER BY uri, first
"""


def known_numbers(engine: Engine) -> set[tuple[str, int]]:
    """What the ranges and the notes say together; the ranges neither overlap nor touch."""
    known: set[tuple[str, int]] = set()
    for source, first, last, _ in rows(engine, RANGES):
        assert known.isdisjoint((source, number) for number in range(first - 1, last + 2))
        known |= {(source, number) for number in range(first, last + 1)}
    for source, numbers in rows(engine, "SELECT source, sequences FROM ledger_arrival"):
        known |= {(source, number) for number in numbers}
    return known


def ranges_of(first_at: dict[int, datetime]) -> list[tuple[int, int, datetime]]:
    """The plain reference: number by number."""
    ranges: list[tuple[int, int, datetime]] = []
    for number in sorted(first_at):
        if ranges and ranges[-1][1] == number - 1:
            first, _, arrived_at = ranges.pop()
            ranges.append((first, number, min(arrived_at, first_at[number])))
        else:
            ranges.append((number, number, first_at[number]))
    return ranges


TOUCHED = text("""
    SELECT seq_tup_read + idx_tup_fetch, n_tup_ins, n_tup_del
    FROM pg_stat_xact_user_tables WHERE relname = 'ledger_range'
""")
"""Rows of the ranges that this session has read, written and removed."""


def test_a_fold_touches_only_the_ranges_that_change(engine: Engine) -> None:
    """Of 20,000 with a hole between each and the next it reads and writes a few, however far apart
    what arrived lies; what had arrived before changes none."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO source (uri) VALUES ('/a')"))
        connection.execute(
            text("""
            INSERT INTO ledger_range (source_id, first, last, recorded_at)
            SELECT id, 2 * number, 2 * number, now() - interval '1 hour'
            FROM source, generate_series(1, 20000) AS number
        """)
        )
    places = "SELECT ctid::text, first, last FROM ledger_range"
    before = set(rows(engine, places))
    note(engine, "/a", [3, 10, 20_001, 39_999, 50_000])
    note(engine, "/a", [20_002, 40_000])
    with engine.begin() as connection:
        sizes = {"notes": ledger.PIECE_NOTES, "size_bytes": ledger.PIECE_BYTES}
        begun = connection.execute(TOUCHED).one()
        assert connection.scalar(FOLD, sizes) == 2
        ended = connection.execute(TOUCHED).one()
    read, written, removed = (late - early for early, late in zip(begun, ended, strict=True))
    assert (written, removed) == (4, 6)
    assert read <= 40
    after = set(rows(engine, places))
    assert {each[1:] for each in before - after} == {
        (number, number) for number in (2, 4, 20_000, 20_002, 39_998, 40_000)
    }
    assert {each[1:] for each in after - before} == {
        (2, 4),
        (20_000, 20_002),
        (39_998, 40_000),
        (50_000, 50_000),
    }


def test_a_fold_ends_between_two_pieces_when_it_is_told_to(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves is noted still, and merged the next time."""
    monkeypatch.setattr(ledger, "PIECE_NOTES", 2)
    for number in range(1, 6):
        note(engine, "/a", [number])
    assert fold(engine, until=lambda: True)
    assert rows(engine, "SELECT count(*) FROM ledger_arrival") == [(3,)]
    assert fold(engine)
    assert rows(engine, "SELECT first, last FROM ledger_range") == [(1, 5)]


def test_a_fold_ends_with_the_first_piece_that_leaves_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come meanwhile is left to the next one: else each batch of a busy worker would be
    folded alone, which costs several times as much."""
    monkeypatch.setattr(ledger, "PIECE_NOTES", 3)
    for number in range(1, 5):
        note(engine, "/a", [number])
    arriving = count(5)

    def is_enough() -> bool:
        note(engine, "/a", [next(arriving)])
        return False

    assert fold(engine, until=is_enough)
    assert next(arriving) == 6
    assert rows(engine, "SELECT first, last FROM ledger_range") == [(1, 5)]


def test_a_block_that_arrives_in_parts_is_as_old_as_the_first(engine: Engine) -> None:
    """In whatever order its numbers come."""
    numbers = range(ledger.BLOCK, 2 * ledger.BLOCK)
    with engine.begin() as connection:
        for second, part in ((5, numbers[::2]), (2, numbers[1::4]), (9, numbers[3::4])):
            connection.execute(
                text("INSERT INTO ledger_arrival VALUES ('/a', :part, :at, :part)"),
                {"part": list(part), "at": at(second)},
            )
    assert fold(engine)
    assert rows(engine, RANGES) == [("/a", numbers[0], numbers[-1], at(2))]
    assert rows(engine, "SELECT block, ids, reused FROM ledger_event") == [(1, [*numbers], [])]


def test_what_is_complete_is_one_row(engine: Engine) -> None:
    """A hole adds a row, and its late arrival removes that again."""
    ranges = "SELECT first, last FROM ledger_range ORDER BY first"
    for begin in range(1, 5001, 500):
        note(engine, "/a", range(begin, begin + 500))
        fold(engine)
    assert rows(engine, ranges) == [(1, 5000)]
    note(engine, "/a", range(5002, 5101))
    fold(engine)
    assert rows(engine, ranges) == [(1, 5000), (5002, 5100)]
    note(engine, "/a", [5001])
    fold(engine)
    assert rows(engine, ranges) == [(1, 5100)]
    assert rows(engine, "SELECT count(*) FROM ledger_arrival") == [(0,)]


def test_a_hole_is_as_old_as_what_first_arrived_above_it(engine: Engine) -> None:
    """A late number splits the hole without making either half younger."""
    note(engine, "/a", [1, 10])
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE ledger_arrival SET recorded_at = now() - interval '1 hour'")
        )
    note(engine, "/a", [5])
    for _ in range(2):
        found = account(engine, "/a", grace_seconds=3000)
        assert found is not None
        assert [(each.first, each.last) for each in found.missing] == [(2, 4), (6, 9)]
        assert all(3600 <= each.missing_seconds < 3700 for each in found.missing)
        fold(engine)


def test_what_may_still_be_on_its_way_can_be_given_time(engine: Engine) -> None:
    """Partitions are applied independently, so a higher number may arrive first."""
    note(engine, "/a", [2])
    assert missing(engine, "/a") == [(1, 1)]
    found = account(engine, "/a", grace_seconds=60)
    assert found is not None
    assert found.missing == []
    assert (found.highest, found.received) == (2, 1)


def test_any_number_and_any_source_can_be_noted(engine: Engine) -> None:
    """That includes the largest number that may be believed, and a source too long for an index."""
    for source in ("/" + "long" * 3000, "/'\"{},\\ ünï"):
        note(engine, source, [MAX_SEQUENCE, 1])
        fold(engine)
        note(engine, source, [MAX_SEQUENCE])
        fold(engine)
        assert missing(engine, source) == [(2, MAX_SEQUENCE - 1)]


def test_what_is_buried_has_arrived(engine: Engine) -> None:
    """If its number can be read, it counts as dead until somebody resolves it."""
    register_branches(engine, BRANCH)
    good = numbered("/a", [1, 2])
    unknown = numbered("/a", [3], branch_id=404)
    body = good[0].body
    invalid = read_message(body.replace(b'subject":"7', b'subject":"8').replace(b"0001", b"0004"))
    padding = b'{"padding":"%s",' % (b"x" * 70_000)
    too_large = read_message(body.replace(b"0001", b"0005").replace(b"{", padding, 1))
    unnumbered = read_message(b"{")
    Applier(engine).apply([*good, *unknown, invalid, too_large, unnumbered])
    found = account(engine, "/a")
    assert found is not None
    assert (found.highest, found.received, found.missing, found.dead) == (5, 5, [], 3)


def test_what_is_rolled_back_has_not_arrived(engine: Engine) -> None:
    """The note is part of the transaction it is about."""
    with engine.connect() as connection:
        messages = numbered("/a", [1])
        write_batch(connection, messages, arrivals_of(messages), {})
        connection.rollback()
    assert account(engine, "/a") is None


def test_a_source_shows_its_host_and_when_it_was_heard(engine: Engine) -> None:
    """A fold brings that up to date; the URI names the host only if it is a spool's."""
    heard = text("UPDATE ledger_arrival SET recorded_at = recorded_at - CAST(:ago AS interval)")
    for ago, number in (("2 h", 1), ("1 h", 2), ("3 h", 3)):
        for source in ("/pullers/vostok/1", "urn:other"):
            note(engine, source, [number])
        with engine.begin() as connection:
            connection.execute(heard, {"ago": ago})
        assert fold(engine)
    query = """
        SELECT hostname, extract(hour FROM date_trunc('minute', now() - first_heard_at))::int,
            extract(hour FROM date_trunc('minute', now() - last_heard_at))::int
        FROM source ORDER BY id
    """
    assert rows(engine, query) == [("vostok", 2, 1), (None, 2, 1)]


def test_a_publication_of_all_tables_does_not_stop_a_fold(engine: Engine) -> None:
    """Logical replication refuses to delete rows that it cannot tell apart."""
    with engine.begin() as connection:
        connection.execute(text("CREATE PUBLICATION everything FOR ALL TABLES"))
    note(engine, "/a", [1, 2])
    assert fold(engine)
    assert rows(engine, "SELECT first, last FROM ledger_range") == [(1, 2)]


def test_nobody_waits_for_a_fold(engine: Engine) -> None:
    """A second fold leaves the work to the first, and noting an arrival goes on."""
    note(engine, "/a", [1])
    with ThreadPoolExecutor(2) as threads, engine.begin() as folding:
        folding.execute(TRY_LOCK)
        folding.execute(text("DELETE FROM ledger_arrival"))
        other_fold = threads.submit(fold, engine)
        noting = threads.submit(note, engine, "/a", [2])
        assert other_fold.result(PATIENCE_SECONDS) is False
        noting.result(PATIENCE_SECONDS)
        folding.rollback()
    assert fold(engine)
    assert rows(engine, "SELECT first, last FROM ledger_range") == [(1, 2)]


def test_workers_and_folds_at_once_lose_no_number(engine: Engine) -> None:
    """What is noted while somebody folds is folded the next time."""
    with ThreadPoolExecutor(4) as threads:
        working: list[Future[Any]] = []
        for begin in range(1, 2001, 10):
            arrived = range(begin, begin + 10)
            working.append(threads.submit(note, engine, f"/{begin % 3}", arrived))
            working.append(threads.submit(note, engine, "/all", arrived))
            working.append(threads.submit(fold, engine))
        for each in working:
            each.result(PATIENCE_SECONDS)
    fold(engine)
    found = account(engine, "/all")
    assert found is not None
    assert (found.highest, found.received, found.missing) == (2000, 2000, [])
    assert rows(engine, "SELECT count(*) FROM ledger_arrival") == [(0,)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from(["one", "two"]),
                st.one_of(st.lists(st.integers(1, 200), max_size=9), runs),
            ),
            st.just("fold"),
        ),
        max_size=12,
    )
)
def test_a_number_is_reused_if_it_came_with_two_events(
    engine: Engine, history: list[tuple[str, list[int]] | str]
) -> None:
    """In whatever order, batches and folds; one event may come as often as it likes."""
    source = next(fresh_sources)
    came: dict[int, set[str]] = {}
    for step in history:
        if isinstance(step, str):
            assert fold(engine)
        else:
            spool, numbers = step
            note(engine, source, numbers, spool)
            for number in numbers:
                came.setdefault(number, set()).add(spool)
    assert fold(engine)
    found = account(engine, source)
    if found is None:
        assert not came
        return
    reused = sorted(number for number, spools in came.items() if len(spools) > 1)
    assert [n for first, last in found.reused for n in range(first, last + 1)] == reused
    assert found.reused_events == len(reused)


def test_the_ids_of_the_latest_numbers_are_kept(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of numbers that were reused, so that an audit goes on naming them."""
    monkeypatch.setattr(ledger, "PIECE_NOTES", 1)
    newest = ledger.BLOCK * (ledger.KEPT_BLOCKS + 2)
    note(engine, "/a", [1], "another")
    for number in (1, ledger.BLOCK, newest, newest + 1):
        note(engine, "/a", [number])
    assert fold(engine)
    blocks = "SELECT block, reused FROM ledger_event ORDER BY block"
    assert rows(engine, blocks) == [(0, [1]), (ledger.KEPT_BLOCKS + 2, [])]


def test_an_attempt_names_who_reported_its_outcome(engine: Engine) -> None:
    """If it has none yet, who reported its start."""
    register_branches(engine, BRANCH)
    applier = Applier(engine)
    query = "SELECT uri FROM mirror_attempt JOIN source ON id = source_id"
    for source, event in (
        ("/first", MirrorStarted(BRANCH, at(0))),
        ("/second", MirrorFailed(BRANCH, at(0), "x")),
        ("/third", MirrorStarted(BRANCH, at(0))),
    ):
        envelope = Envelope("id", source, at(0), event)
        applier.apply([read_message(wire.encode(envelope))])
        assert rows(engine, query) == [("/first" if source == "/first" else "/second",)]


@pytest.mark.parametrize("is_noticed", [False, True])
def test_a_database_that_was_replaced_gives_numbers_of_its_own(
    engine: Engine, database_url: str, is_noticed: bool
) -> None:
    """It does not matter whether this thread or another one notices that its sessions have died."""
    register_branches(engine, BRANCH)
    working = open_engine(database_url)
    applier = Applier(working)
    applier.apply(messages(failed(BRANCH, 0, "x")))
    pids = rows(working, "SELECT pg_backend_pid()")
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE source RESTART IDENTITY CASCADE"))
        connection.execute(text("INSERT INTO source (uri) VALUES ('/another')"))
    assert rows(engine, f"SELECT pg_terminate_backend({pids[0][0]}, 10000)") == [(True,)]
    with pytest.raises(DBAPIError):
        rows(working, "SELECT 1") if is_noticed else applier.apply(messages(failed(BRANCH, 1, "x")))
    applier.apply(messages(failed(BRANCH, 2, "x")))
    working.dispose()
    latest = "SELECT uri FROM mirror_attempt LEFT JOIN source ON id = source_id"
    assert rows(engine, f"{latest} ORDER BY started_at DESC LIMIT 1") == [("/pullers/vostok/test",)]


def test_two_workers_give_a_new_source_one_number(engine: Engine) -> None:
    """Whoever comes second takes the number of the first; a worker remembers only so many."""
    uris = [{f"/{number}", f"/{number + 1}", "/" + "long" * 100} for number in range(300)]
    with pytest.MonkeyPatch.context() as monkeypatch, ThreadPoolExecutor(4) as threads:
        monkeypatch.setattr(reporters, "REMEMBERED", 20)

        def ask() -> list[dict[str, int]]:
            with engine.connect() as connection:
                answers = [(asked, remembered_numbers(connection, asked)) for asked in uris]
            return [{uri: numbers[uri] for uri in asked} for asked, numbers in answers]

        told = [each.result(PATIENCE_SECONDS) for each in [threads.submit(ask) for _ in range(4)]]
    assert told[0] == told[1] == told[2] == told[3]
    known = dict(map(tuple, rows(engine, "SELECT uri, id FROM source")))
    assert known == {uri: number for answer in told[0] for uri, number in answer.items()}


@pytest.mark.parametrize("sequence", [None, 1])
def test_events_without_a_number_are_not_audited(engine: Engine, sequence: int | None) -> None:
    """They are applied all the same."""
    register_branches(engine, BRANCH)
    event = MirrorStarted(BRANCH, at(0))
    message = read_message(wire.encode(Envelope("id", "/a", at(0), event, sequence)))
    assert Applier(engine).apply([message]).applied == 1
    assert (account(engine, "/a") is None) == (sequence is None)
