"""How PostgreSQL looks things up once there is much to look through.

Plans are those that were carried out (PostgreSQL's auto_explain), not those of a statement that
looks like ours: so they hold for prepared statements and for what a foreign key looks up, too.
"""

import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply import statements
from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.ledger import fold
from mirrorfeed.consumer.apply.message import Message, read_message
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.dead_letters.plan import plan
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.consumer.operations.perform import apply_planned
from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope, MirrorFailed, MirrorStarted, ScriptRun
from mirrorfeed.contract.reasons import Reason
from tests.builders import at
from tests.servers import new_database, register_branches

BRANCHES = 30_000
LETTERS_PER_HOUR = 100_000
WARM_UP = 10
"""Batches after which PostgreSQL keeps its plans."""
LARGE = {
    "branch",
    "mirror_attempt",
    "script_activity",
    "dead_letter",
    "ledger_range",
    "ledger_event",
}
EXPLAIN = """
    LOAD 'auto_explain';
    SET auto_explain.log_min_duration = 0;
    SET auto_explain.log_nested_statements = on;
    SET auto_explain.log_format = 'json';
    SET auto_explain.log_level = 'notice'
"""
NOT_TO_BE_LOADED = ("42501", "58P01")
"""The SQLSTATE of a right that is missing, and of a file."""
# A test of old statistics must not be overtaken by fresh ones.
KEEP_STATISTICS = """
    ALTER TABLE branch SET (autovacuum_enabled = off);
    ALTER TABLE mirror_attempt SET (autovacuum_enabled = off);
    ALTER TABLE script_activity SET (autovacuum_enabled = off);
    ALTER TABLE dead_letter SET (autovacuum_enabled = off);
    ALTER TABLE source SET (autovacuum_enabled = off);
    ALTER TABLE ledger_range SET (autovacuum_enabled = off);
    ALTER TABLE ledger_event SET (autovacuum_enabled = off);
    ALTER TABLE mirror_attempt ADD CHECK (failure_reason <> 'refused')
"""
BEGIN_SMALL = """
    INSERT INTO branch (id, unique_name) VALUES (1, 'b1');
    INSERT INTO mirror_attempt (branch_id, started_at, finished_at, outcome)
    SELECT 1, instant, instant, 'completed' FROM generate_series(1, 500) number,
        LATERAL (SELECT timestamptz '2024-01-01' + number * interval '1 s' AS instant) AS attempt;
    INSERT INTO source (uri) VALUES ('/pullers/0');
    INSERT INTO ledger_range (source_id, first, last, recorded_at)
    SELECT id, 1, 10, now() FROM source
"""
GROW = f"""
    INSERT INTO branch (id, unique_name)
    SELECT id, 'b' || id FROM generate_series(2, {BRANCHES}) id;
    INSERT INTO mirror_attempt (branch_id, started_at, finished_at, outcome)
    SELECT
        number % {BRANCHES} + 1, timestamptz '2025-01-01' + number * interval '1 s',
        timestamptz '2025-02-01', CASE WHEN number % 20 = 0 THEN 'failed' ELSE 'completed' END
    FROM generate_series(1, 2 * {BRANCHES}) number;
    INSERT INTO script_activity (name, hostname, date_started, date_completed)
    SELECT 's' || number % 9, 'vostok', instant, instant
    FROM generate_series(1, {BRANCHES}) number,
        LATERAL (SELECT timestamptz '2025-01-01' + number * interval '1 s' AS instant) AS run;
    INSERT INTO dead_letter (reason, detail, body)
    SELECT 'malformed', '', convert_to('{{' || number, 'UTF8')
    FROM generate_series(1, 10000) number;
    INSERT INTO source (uri)
    SELECT '/pullers/' || number FROM generate_series(1, 300) number ON CONFLICT DO NOTHING;
    INSERT INTO ledger_range (source_id, first, last, recorded_at)
    SELECT id, 1 + 10 * hole, 9 + 10 * hole, now() FROM source, generate_series(1, 100) hole;
    INSERT INTO ledger_event (source_id, block, ids, reused)
    SELECT id, block, array_fill(7, ARRAY[64]), '{{}}' FROM source, generate_series(1, 100) block
    ON CONFLICT DO NOTHING
"""


class Plans:
    """What PostgreSQL tells of each statement that it carried out."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def append(self, notice: str) -> None:
        """Called by psycopg2 with each notice."""
        if "plan:\n" in notice:
            self.told.append(json.loads(notice.split("plan:\n", 1)[1]))

    def read_whole(self) -> set[str]:
        """The large tables of which a plan reads each row, in order of an index or not."""
        return {
            f"{node['Relation Name']} in: {' '.join(each['Query Text'].split())[:500]}"
            for each in self.told
            for node in _nodes(each["Plan"])
            if node["Node Type"] in ("Seq Scan", "Index Scan", "Index Only Scan")
            and node["Relation Name"] in LARGE
            and "Index Cond" not in node
        }

    def used(self) -> set[str]:
        """The tables that were read or written, and the indexes that were looked into."""
        nodes = [node for each in self.told for node in _nodes(each["Plan"])]
        return {
            name
            for node in nodes
            for name in (
                node.get("Relation Name"),
                node.get("Index Name"),
                *node.get("Conflict Arbiter Indexes", ()),
            )
            if name
        }


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


@pytest.fixture(scope="module", params=["nothing", "one branch", "all"])
def grown(request: pytest.FixtureRequest, template_url: URL) -> Iterator[tuple[Engine, Plans]]:
    """Much data, statistics from when there was this, and a session from when there was little, a
    while ago."""
    with new_database(template_url, template=template_url.database) as url:
        engine = open_engine(url.render_as_string(hide_password=False))
        plans = Plans()

        @event.listens_for(engine, "connect")
        def explain(connection: Any, _record: object) -> None:
            connection.notices = plans
            with connection.cursor() as cursor:
                cursor.execute(EXPLAIN)
            connection.commit()

        other = open_engine(url.render_as_string(hide_password=False))
        _execute(other, KEEP_STATISTICS)
        if request.param == "nothing":
            _execute(other, "ANALYZE")
        _execute(other, BEGIN_SMALL)
        if request.param == "one branch":
            _execute(other, "ANALYZE")
        _need_auto_explain(engine)
        _work(engine, branch_ids=[1])
        _execute(other, GROW)
        if request.param == "all":
            _execute(other, "ANALYZE")
        other.dispose()
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(statements, "PLAN_SECONDS", 0.0)  # as if so much time had passed
            yield engine, plans
        engine.dispose()


def _need_auto_explain(engine: Engine) -> None:
    try:
        engine.connect().close()
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) not in NOT_TO_BE_LOADED:
            raise
        pytest.skip(f"auto_explain cannot be loaded: {error.orig}")


def _execute(engine: Engine, script: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(script))


def _work(engine: Engine, branch_ids: Iterable[int]) -> None:
    for number in range(WARM_UP):
        Applier(engine, LETTERS_PER_HOUR).apply(_batch(branch_ids, start=number))


def _batch(branch_ids: Iterable[int], *, start: float, reason: str = "gone") -> list[Message]:
    """For each branch a start and a failure, and for each as well a script's run and no event."""
    messages = []
    for number, branch_id in enumerate(branch_ids, start=1):
        begun, ended = at(start), at(start + 1)
        for each in (
            MirrorStarted(branch_id, begun),
            MirrorFailed(branch_id, begun, reason),
            ScriptRun(f"s{branch_id % 9}", "vostok", begun, ended),
        ):
            time = begun if isinstance(each, MirrorStarted) else ended
            envelope = Envelope("id", f"/pullers/{branch_id % 300}", time, each, 2000 + number)
            messages.append(read_message(wire.encode(envelope)))
        messages.append(read_message(b"%d no event" % branch_id))
    return messages


@pytest.mark.parametrize("count", [1, 1000])
def test_a_batch_reads_only_what_it_is_about(grown: tuple[Engine, Plans], count: int) -> None:
    """Its branches, their attempts since the last success, and no other row of a large table."""
    engine, plans = grown
    plans.told.clear()
    batch = _batch(range(7, 7 + count), start=1000 + count)
    tally = Applier(engine, LETTERS_PER_HOUR).apply(batch)
    assert (tally.applied, tally.buried) == (3 * count, {Reason.MALFORMED: count})
    assert plans.used() >= {
        "branch_pkey",
        "mirror_attempt_pkey",
        "script_activity",
        "dead_letter_body",
        "dead_letter_allowance",
        "ledger_arrival",
    }
    assert plans.read_whole() == set()
    # Nothing came late, so no branch was computed again.
    assert not any("touched (id)" in each["Query Text"] for each in plans.told)


def test_taking_a_batch_apart_reads_no_more(grown: tuple[Engine, Plans]) -> None:
    """PostgreSQL's kept plans for prepared statements do not change that."""
    engine, plans = grown
    batch = _batch(range(7, 307), start=2000)
    refused = _batch(range(400, 420), start=2000, reason="refused")
    plans.told.clear()
    tally = Applier(engine).apply([*batch, *refused])
    assert tally.buried == {Reason.MALFORMED: 320, Reason.REJECTED_BY_DATABASE: 20}
    assert any("try_each" in each["Query Text"] for each in plans.told)
    assert plans.read_whole() == set()


def test_looking_for_locks_reads_no_more(grown: tuple[Engine, Plans]) -> None:
    """Each branch and each attempt is looked up by its key."""
    engine, plans = grown
    batch = _batch(range(7, 307), start=2500)
    Applier(engine).apply(batch)
    plans.told.clear()
    assert Applier(engine).locked_branches(batch) == set()
    assert plans.used() >= {"branch_pkey", "mirror_attempt_pkey"}
    assert plans.read_whole() == set()


def test_a_fold_reads_only_what_the_arrivals_touch(grown: tuple[Engine, Plans]) -> None:
    """The number of older holes does not matter."""
    engine, plans = grown
    Applier(engine).apply(_batch(range(7, 107), start=3000))
    plans.told.clear()
    assert fold(engine)
    assert plans.used() >= {"ledger_arrival", "ledger_range_pkey", "ledger_event_pkey"}
    assert plans.read_whole() == set()


def test_replaying_reads_only_the_letters_it_is_given(grown: tuple[Engine, Plans]) -> None:
    """Of the tables it reads only what their events are about."""
    engine, plans = grown
    unknown = [read_message(each.body) for each in _batch([BRANCHES + 1], start=4000)]
    Applier(engine).apply(unknown)
    with engine.begin() as connection:
        ids = connection.scalars(text("SELECT id FROM dead_letter ORDER BY id DESC LIMIT 100"))
        selection = Selection(ids=tuple(ids))
    register_branches(engine, BRANCHES + 1)
    plans.told.clear()
    with engine.connect() as connection:
        planned = plan(connection, selection)
    outcomes = [
        outcome.outcome
        for step in apply_planned(engine, planned, "tester", threading.Event())
        for outcome in step.outcomes
    ]
    assert sorted(outcomes) == ["applied", "applied", *["dead"] * 98]
    assert plans.read_whole() == set()
