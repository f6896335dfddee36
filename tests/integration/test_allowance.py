"""How many letters of one source are kept within an hour, on a real PostgreSQL."""

import logging
from collections.abc import Iterable
from hashlib import sha256

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.consumer.apply.allowance import SOURCE_CHARACTERS
from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.large import LargeMessage
from mirrorfeed.consumer.apply.message import Message, read_message
from mirrorfeed.consumer.sources.audit import audit
from mirrorfeed.consumer.sources.overflow import count_overflow
from tests.builders import completed, messages
from tests.servers import executed_statements, register_branches, rows
from tests.wire_samples import body_with

SOURCE = "/pullers/vostok/test"
OTHER = "/pullers/mir/test"
KEPT = "SELECT source, count(*) FROM dead_letter GROUP BY 1 ORDER BY 1"
AN_HOUR_LATER = "UPDATE dead_letter SET first_seen_at = first_seen_at - interval '1 h'"
NOBODYS = [read_message(b"no event %d" % number) for number in range(9)]


def bad(numbers: Iterable[int], source: str = SOURCE) -> list[Message]:
    """Different messages of a source that cannot be applied, which it numbers."""
    return [
        read_message(
            body_with(id=f"{number}", source=source, sequence=f"{number:020}", subject="wrong")
        )
        for number in numbers
    ]


def digests(found: Iterable[Message]) -> set[bytes]:
    return {sha256(each.body).digest() for each in found}


def overflow(engine: Engine) -> dict[str | None, int]:
    with engine.connect() as connection:
        return count_overflow(connection)


def execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_first_messages_are_kept_and_the_rest_are_counted(engine: Engine, size: int) -> None:
    """With their digests and reason, however they are split into batches; all have arrived."""
    applier = Applier(engine, letters_per_hour=3)
    sent = bad(range(1, 8))
    not_kept = 0
    for begin in range(0, len(sent), size):
        tally = applier.apply(sent[begin : begin + size])
        assert tally.buried.total() == len(sent[begin : begin + size])
        not_kept += tally.not_kept
    assert not_kept == 4
    kept = [bytes(letter.body) for letter in rows(engine, "SELECT body FROM dead_letter")]
    assert sorted(kept) == sorted(each.body for each in sent[:3])
    noted = rows(engine, "SELECT source, reason, digests FROM letter_overflow")
    assert {(row.source, row.reason) for row in noted} == {(SOURCE, "invalid")}
    assert {bytes(each) for row in noted for each in row.digests} == digests(sent[3:])
    with engine.connect() as connection:
        found = audit(connection)
    (account,) = found.accounts
    assert (account.received, account.missing_events) == (7, 0)
    assert (account.dead, account.overflow, found.overflow) == (3, 4, 4)


def test_each_source_has_letters_of_its_own(engine: Engine) -> None:
    """All messages whose source cannot be read share theirs, whatever their reason."""
    applier = Applier(engine, letters_per_hour=2)
    applier.apply([*bad(range(5)), *NOBODYS[:4], *bad(range(2), OTHER)])
    applier.apply([*bad(range(5, 6), OTHER), read_message(b"x" * 70_000)])
    assert rows(engine, KEPT) == [(OTHER, 2), (SOURCE, 2), (None, 2)]
    assert overflow(engine) == {SOURCE: 3, None: 3, OTHER: 1}


def test_the_next_hour_has_letters_of_its_own(engine: Engine) -> None:
    """What became of those of the last hour does not matter."""
    applier = Applier(engine, letters_per_hour=2)
    applier.apply(bad(range(3)))
    execute(engine, AN_HOUR_LATER)
    applier.apply(bad(range(10, 13)))
    assert rows(engine, KEPT) == [(SOURCE, 4)]
    execute(engine, "UPDATE dead_letter SET state = 'discarded'")
    assert applier.apply(bad(range(20, 23))).not_kept == 3
    assert overflow(engine) == {SOURCE: 5}


def test_a_message_that_has_a_letter_is_counted_there(engine: Engine) -> None:
    """Even if nothing is left, and if the letter was edited; it leaves the others' room alone."""
    applier = Applier(engine, letters_per_hour=3)
    applier.apply(bad(range(2)))
    execute(engine, "UPDATE dead_letter SET original_body = body, body = '' WHERE id = 1")
    tally = applier.apply(bad(range(4)))
    assert (tally.buried.total(), tally.not_kept) == (4, 1)
    applier.apply([*bad(range(2)), *bad(range(1))])
    assert rows(engine, "SELECT attempts FROM dead_letter ORDER BY id") == [(4,), (3,), (1,)]


def test_a_message_counts_once_however_often_it_comes(engine: Engine) -> None:
    """In a batch or one after another; and no more once it has a letter, in another hour."""
    applier = Applier(engine, letters_per_hour=1)
    applier.apply(bad([1]))
    assert applier.apply([*bad([2]), *bad([2]), *bad([3])]).not_kept == 2
    assert applier.apply(bad([2])).not_kept == 1
    assert overflow(engine) == {SOURCE: 2}
    execute(engine, AN_HOUR_LATER)
    assert applier.apply(bad([2])).not_kept == 0
    assert overflow(engine) == {SOURCE: 1}


def test_sources_that_are_too_long_for_an_index_share_their_letters(engine: Engine) -> None:
    """If they begin alike; so a new end does not make a new source, and little of it is stored."""
    begin = "\U0001f511" * SOURCE_CHARACTERS
    applier = Applier(engine, letters_per_hour=2)
    applier.apply([each for number in range(4) for each in bad([1], begin + "x" * number)])
    assert rows(engine, "SELECT count(*) FROM dead_letter") == [(2,)]
    assert overflow(engine) == {begin: 2}
    with engine.connect() as connection:
        assert [each.overflow for each in audit(connection).accounts] == [2] * 4


def test_large_messages_share_the_letters_of_those_without_a_source(engine: Engine) -> None:
    """One that has a letter is counted there."""
    applier = Applier(engine, letters_per_hour=2)
    applier.apply(NOBODYS[:1])
    large = [LargeMessage((b"x" * 1000, b"y" * (1 + number)), {}) for number in range(3)]
    assert [applier.bury_large(each).not_kept for each in large] == [0, 1, 1]
    assert applier.bury_large(large[0]).not_kept == 0
    assert rows(engine, "SELECT attempts FROM dead_letter ORDER BY id") == [(1,), (2,)]
    noted = rows(engine, "SELECT source, reason, digests FROM letter_overflow ORDER BY id")
    assert [(row.source, row.reason) for row in noted] == [(None, "too-large")] * 2
    assert {bytes(row.digests[0]) for row in noted} == {
        sha256(b"".join(each.pieces)).digest() for each in large[1:]
    }


def test_without_a_bound_everything_is_kept(engine: Engine) -> None:
    """0 means none, also for large messages."""
    applier = Applier(engine, letters_per_hour=0)
    assert applier.apply(bad(range(20))).not_kept == 0
    assert applier.bury_large(LargeMessage((b"x",), {})).not_kept == 0
    assert rows(engine, "SELECT count(*) FROM dead_letter") == [(21,)]


def test_the_bound_costs_a_statement_if_something_is_buried(engine: Engine) -> None:
    """Whether or not it is reached; else nothing."""
    register_branches(engine, 7)
    bounded, unbounded = Applier(engine, letters_per_hour=2), Applier(engine)
    good = messages(completed(7, 0, "rev"))
    for applier in (unbounded, bounded):
        applier.apply(good)
    counts = []
    for batch in (good, [*good, *bad(range(2))], [*good, *bad(range(9))]):
        for applier in (unbounded, bounded):
            execute(engine, "DELETE FROM dead_letter")
            with executed_statements(engine) as seen:
                applier.apply(batch)
            counts.append(len(seen))
    assert counts[1] == counts[0]
    assert counts[3] == counts[2] + 1
    assert counts[5] == counts[4] + 1


def test_a_flood_is_told_once_an_hour(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """For each source, and not before something was not kept."""
    applier = Applier(engine, letters_per_hour=2)
    with caplog.at_level(logging.WARNING):
        applier.apply([*bad(range(2)), *NOBODYS[:2]])
        assert caplog.records == []
        for number in range(3, 6):
            applier.apply([*bad([number]), NOBODYS[number]])
    told = [(each.levelname, each.__dict__["source"]) for each in caplog.records]
    assert told == [("WARNING", "none that could be read"), ("WARNING", SOURCE)]
    assert caplog.records[0].__dict__["see"] == "mirror-replay list --overflow"
