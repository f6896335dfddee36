"""What a hostile publisher can do to the account of what has arrived, and how it is put right."""

import json
from typing import Any

import pika
import pytest
from sqlalchemy import Engine, text

from mirrorfeed.consumer.apply.allowance import LETTERS_PER_HOUR
from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.batch import write_batch
from mirrorfeed.consumer.apply.message import HIGHEST_SEQUENCE
from mirrorfeed.consumer.apply.projection import MANY, project_branches
from mirrorfeed.consumer.branches.rebuild import rebuild
from mirrorfeed.contract import routing
from mirrorfeed.contract.events import MAX_SEQUENCE, Envelope, MirrorStarted
from tests.builders import at, completed, envelope, failed, messages, started
from tests.commands import Shell
from tests.servers import publish, publish_events, register_branches, rows, wait_for
from tests.wire_samples import body_with

SOURCE = "/pullers/vostok/test"
BRANCH = 7


def numbered(sequence: int) -> Envelope:
    return envelope(MirrorStarted(BRANCH, at(sequence % 1000)), sequence=sequence)


def drain(shell: Shell, *options: str) -> None:
    shell.run("mirror-consumer", "run", "--drain", *options)


def account(shell: Shell, expect: int = 0) -> Any:
    audit = json.loads(shell.run("mirror-consumer", "audit", "--json", expect=expect).stdout)
    (account,) = audit["sources"]
    return account


@pytest.mark.parametrize("sequence", [HIGHEST_SEQUENCE + 1, MAX_SEQUENCE])
def test_a_number_that_no_spool_reaches_is_not_believed(
    shell: Shell, engine: Engine, topology: str, sequence: int
) -> None:
    """Neither of an event nor of a message that is none. A spool that stands at millions is new to
    a database that is new or restored, and is believed."""
    register_branches(engine, BRANCH)
    publish_events(topology, numbered(5_000_000), numbered(sequence))
    publish(topology, body_with(source=SOURCE, sequence=f"{sequence:020}", subject="8"))
    drain(shell)
    assert account(shell, expect=1)["highest"] == 5_000_000
    letters = rows(engine, "SELECT reason, detail FROM dead_letter ORDER BY detail DESC")
    assert [letter.reason for letter in letters] == ["invalid"] * 2
    assert f"the sequence {sequence} is above {HIGHEST_SEQUENCE}" in letters[0].detail
    shell.run("mirror-replay", "apply", "--all", expect=1)


def test_the_highest_number_can_be_set(shell: Shell, engine: Engine, topology: str) -> None:
    """For the worker, and for a replay of what it refused."""
    register_branches(engine, BRANCH)
    publish_events(topology, numbered(9), numbered(10), numbered(11))
    drain(shell, "--highest-sequence", "9")
    assert account(shell, expect=1)["highest"] == 9
    shell.run("mirror-replay", "apply", "--all", "--highest-sequence", "10", expect=1)
    assert account(shell, expect=1)["highest"] == 10


READ = text("""
    SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
    FROM pg_stat_xact_user_tables WHERE relname = 'mirror_attempt'
""")
"""Attempts that this session has read lately."""


@pytest.mark.parametrize("has_failed", [True, False])
@pytest.mark.parametrize("has_succeeded", [True, False])
def test_an_event_from_the_past_costs_no_more_than_another(
    engine: Engine, has_failed: bool, has_succeeded: bool
) -> None:
    """However many attempts the branch has had since then, or since its last success, and whether
    these failed or never ended."""
    register_branches(engine, BRANCH)
    applier = Applier(engine)
    if has_succeeded:
        applier.apply(messages(completed(BRANCH, -1_000_000, "rev")))
    with engine.begin() as connection:
        connection.execute(
            text("""
            INSERT INTO mirror_attempt (branch_id, started_at, finished_at, outcome, failure_reason)
            SELECT
                :branch_id, instant, CASE WHEN :has_failed THEN instant END,
                CASE WHEN :has_failed THEN 'failed' END, CASE WHEN :has_failed THEN 'why' END
            FROM generate_series(1, 20000) AS number,
                LATERAL (SELECT :start + number * interval '1 s' AS instant) AS attempt
            """),
            {"branch_id": BRANCH, "has_failed": has_failed, "start": at(-100_000)},
        )
        project_branches(connection, [BRANCH])
    for second in (-3e10, -90_000.5):
        for event in (
            started(BRANCH, second),
            failed(BRANCH, second, "long ago"),
            failed(BRANCH, second + 0.1, "and again"),
            completed(BRANCH, second + 0.2, "rev-1"),
        ):
            with engine.begin() as connection:
                read_before = connection.execute(READ).scalar_one()
                assert write_batch(connection, messages(event), {}, {}) == []
                # A success in the midst counts once what it leaves behind.
                most = 3 * MANY if second < -1e6 or not has_failed else 12_000
                assert connection.execute(READ).scalar_one() - read_before <= most, event
    assert rebuild(engine, dry_run=True).differed == []


def test_a_forged_number_can_be_forgotten(shell: Shell, engine: Engine, topology: str) -> None:
    """One that is in the ledger already, folded or not, alone or at the end of a range."""
    register_branches(engine, BRANCH)
    publish_events(topology, *map(numbered, (1, 2, 4)))
    drain(shell)
    with engine.begin() as connection:
        connection.execute(
            text(f"""
            INSERT INTO ledger_range (source_id, first, last, recorded_at)
            SELECT id, {MAX_SEQUENCE - 1}, {MAX_SEQUENCE}, now() FROM source;
            INSERT INTO ledger_arrival (source, sequences)
            VALUES ('{SOURCE}', '{{5, 6, 7, {HIGHEST_SEQUENCE + 7}}}')
            """)
        )
    assert account(shell, expect=1)["missing_events"] == MAX_SEQUENCE - 9
    forget = ("mirror-consumer", "sources", "forget", SOURCE, "--above", "5", "--note", "forged")
    assert "5 numbers forgotten" in shell.run(*forget).stdout
    found = account(shell, expect=1)
    assert (found["highest"], found["received"], found["missing"]) == (5, 4, [[3, 3]])
    publish_events(topology, *map(numbered, (3, 6, 7, 8)))
    drain(shell)
    assert account(shell)["highest"] == 8
    shell.run("mirror-consumer", "audit", "undo", "1", "--note", "a test")
    assert account(shell, expect=1)["highest"] == MAX_SEQUENCE


FLOOD = 20_000
FLOODER = "/pullers/mallory/test"
"""It floods the queues with bad messages, each of them another one."""
HONEST = "SELECT body FROM dead_letter WHERE source = '/pullers/vostok/test'"


def flood(amqp_url: str) -> None:
    """Without waiting for the broker's word on each message."""
    queue = routing.partition_queue(0)
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        for number in range(1, FLOOD + 1):
            body = body_with(source=FLOODER, sequence=f"{number:020}", subject="wrong")
            channel.basic_publish(routing.EVENTS_EXCHANGE, "mirror.started.00", body)
        wait_for(
            lambda: channel.queue_declare(queue, passive=True).method.message_count >= FLOOD,
            "the flood",
        )


def test_a_flood_of_bad_messages_fills_few_letters(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """The rest are counted, with their digests. Honest letters of others stay whole. The log says
    it once, the audit until an operator has settled it."""
    register_branches(engine, BRANCH)
    flood(topology)
    honest = [body_with(sequence=f"{number:020}", subject="8") for number in (2, 3)]
    publish_events(topology, numbered(1))
    publish(topology, *honest)
    log = shell.run("mirror-consumer", "run", "--drain").stderr
    assert log.count("used up its letters") == 1
    assert "WARNING a source has used up its letters of this hour: more messages" in log
    assert f"source={FLOODER} letters_per_hour=10000 see=" in log
    assert sorted(bytes(body) for (body,) in rows(engine, HONEST)) == sorted(honest)

    hours = rows(
        engine,
        f"SELECT count(*) FROM dead_letter WHERE source = '{FLOODER}'"
        " GROUP BY date_trunc('hour', first_seen_at)",
    )
    assert all(letters <= LETTERS_PER_HOUR for (letters,) in hours)
    kept = sum(letters for (letters,) in hours)
    assert kept >= LETTERS_PER_HOUR
    found = json.loads(shell.run("mirror-consumer", "audit", "--json", expect=1).stdout)
    flooding, other = found["sources"]
    assert (flooding["source"], other["source"]) == (FLOODER, SOURCE)
    assert (flooding["received"], flooding["missing_events"]) == (FLOOD, 0)
    assert (flooding["dead"], flooding["overflow"]) == (kept, FLOOD - kept)
    assert (other["received"], other["dead"], other["overflow"]) == (3, 2, 0)
    assert found["overflow_total"] == FLOOD - kept
    told = shell.run("mirror-consumer", "audit", expect=1).stderr
    assert f"{FLOOD - kept:,} messages neither applied nor kept: mirror-replay list" in told

    listed = shell.run("mirror-replay", "list", "--overflow").stdout.splitlines()
    assert listed[1].split()[:3] == [str(FLOOD - kept), FLOODER, "invalid"]
    shell.run("mirror-replay", "discard", "--source", FLOODER, "--note", "stolen password")
    shell.run("mirror-replay", "discard", "--overflow", "--all", "--note", "stolen password")
    assert json.loads(shell.run("mirror-consumer", "audit", "--json").stdout)["overflow_total"] == 0
    assert rows(engine, "SELECT count(*) FROM dead_letter WHERE state = 'dead'") == [(2,)]
