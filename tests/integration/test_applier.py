"""What a batch makes of the tables, on a real PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from itertools import cycle
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply import statements
from mirrorfeed.consumer.apply.applier import FEW, Applier
from mirrorfeed.consumer.apply.batch import PIECE
from mirrorfeed.consumer.apply.message import MAX_DELIVERIES, read_message, redeliveries
from mirrorfeed.consumer.apply.projection import APPLY_ATTEMPTS, APPLY_FEW, MANY
from mirrorfeed.consumer.branches.rebuild import rebuild
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.retention import prune
from mirrorfeed.contract.events import MAX_BRANCH_ID, Envelope
from mirrorfeed.contract.reasons import Reason
from tests.builders import at, completed, failed, messages, script_run, started
from tests.reference import BranchState, fold
from tests.servers import (
    PATIENCE_SECONDS,
    executed_statements,
    fresh_branch_ids,
    locked,
    refuse_in_database,
    register_branches,
    rows,
    state_of,
    wait_for_rows,
)

BRANCH = 7


@pytest.fixture
def applier(engine: Engine) -> Applier:
    register_branches(engine, BRANCH, 8, MAX_BRANCH_ID)
    return Applier(engine)


@pytest.fixture
def single_session(database_url: str) -> Iterator[Engine]:
    """Whatever goes through it goes through one session of the database."""
    url = make_url(database_url).set(drivername="postgresql+psycopg2")
    single = create_engine(url, pool_size=1, max_overflow=0)
    yield single
    single.dispose()


@pytest.fixture
def executed(engine: Engine) -> Iterator[list[str]]:
    with executed_statements(engine) as scripts:
        yield scripts


def test_a_preparation_that_failed_half_way_is_made_again(
    engine: Engine, single_session: Engine
) -> None:
    """What a connection prepared stays in it, whatever ended the transaction."""
    register_branches(engine, BRANCH)
    with single_session.begin() as connection:
        connection.execute(text("PREPARE apply_attempts AS SELECT 1"))
    Applier(single_session).apply(messages(started(BRANCH, 0)))
    assert state_of(engine, BRANCH) == BranchState(last_mirror_attempt=at(0))


def test_what_a_session_has_forgotten_is_prepared_again(
    engine: Engine, single_session: Engine
) -> None:
    """A pooler may give each transaction another session."""
    register_branches(engine, BRANCH)
    refuse_in_database(engine, "failure_reason = 'poison'")
    applier = Applier(single_session)
    applier.apply(messages(started(BRANCH, 0)))
    with single_session.begin() as connection:
        connection.execute(text("DEALLOCATE ALL"))
    tally = applier.apply(messages(completed(BRANCH, 0, "rev-1"), failed(BRANCH, 10, "poison")))
    assert (tally.applied, tally.buried) == (1, {Reason.REJECTED_BY_DATABASE: 1})
    assert state_of(engine, BRANCH) == BranchState(at(0), at(0), "rev-1")


def test_no_batch_waits_for_a_plan_of_its_own(database_url: str) -> None:
    """PostgreSQL makes one for what it is given five times, and for ever if it takes that to be
    cheaper, as with large tables."""
    engine = open_engine(database_url, pool_size=1, max_overflow=0)
    register_branches(engine, BRANCH)
    applier = Applier(engine)
    for second in range(3):
        applier.apply(messages(started(BRANCH, second), script_run("gc", second, second + 1)))
        applier.apply(messages(*(failed(BRANCH, 10 * second + n, "why") for n in range(2 * FEW))))
    query = "SELECT name, generic_plans > 0, custom_plans FROM pg_prepared_statements"
    plans = {name: counts for name, *counts in rows(engine, query)}
    engine.dispose()
    assert plans["apply_few"] == plans["apply_attempts"] == plans["record"] == [True, 0]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (f"UPDATE branch SET url = 'x' WHERE id = {BRANCH}", {BRANCH}),
        (f"UPDATE mirror_attempt SET outcome = outcome WHERE started_at = '{at(0)}'", {BRANCH}),
        (f"UPDATE mirror_attempt SET outcome = outcome WHERE started_at = '{at(10)}'", set()),
        (f"SELECT FROM branch WHERE id = {BRANCH} FOR KEY SHARE", set()),
        ("SELECT", set()),
    ],
    ids=["branch", "its attempt", "another attempt", "what keeps nobody waiting", "nothing"],
)
def test_what_another_session_has_locked_is_found_without_waiting(
    applier: Applier, engine: Engine, statement: str, found: set[int]
) -> None:
    """Afterwards all of it is as free as it was."""
    applier.apply(messages(started(BRANCH, 0), started(BRANCH, 10), started(8, 0)))
    batch = messages(completed(BRANCH, 0, "r"), started(BRANCH, 20), started(9, 0), started(8, 5))
    with locked(engine, statement):
        assert applier.locked_branches(batch) == found
        assert applier.locked_branches(batch) == found
    assert applier.locked_branches(batch) == set()


def test_a_few_events_are_committed_in_one_round_trip(
    applier: Applier, engine: Engine, executed: list[str]
) -> None:
    """So a lone event is in its row as soon as a database can do that."""
    applier.apply(messages(started(BRANCH, 0)))  # which prepares the statements
    executed.clear()
    applier.apply(messages(completed(BRANCH, 0, "r1"), started(BRANCH, 1), script_run("gc", 0, 1)))
    (script,) = executed
    assert script.count("EXECUTE") == 4
    assert state_of(engine, BRANCH).last_mirror_attempt == at(1)


@pytest.mark.parametrize("late", [started(BRANCH, 1), failed(9, 3, "not registered")])
def test_what_cannot_be_committed_in_one_round_trip_is_committed_in_more(
    applier: Applier, engine: Engine, executed: list[str], late: Envelope
) -> None:
    """What comes late, and what goes to the letters."""
    applier.apply(messages(completed(BRANCH, 2, "r2")))
    executed.clear()
    tally = applier.apply(messages(failed(BRANCH, 3, "why"), late))
    assert sum("EXECUTE" in script for script in executed) == 2
    assert tally.applied + tally.buried.total() == 2
    assert state_of(engine, BRANCH).mirror_failures == 1


def test_a_start_is_an_attempt_and_no_success(applier: Applier, engine: Engine) -> None:
    """Nobody knows yet whether the pull will succeed."""
    applier.apply(messages(started(BRANCH, 0)))
    assert state_of(engine, BRANCH) == BranchState(last_mirror_attempt=at(0))


def test_a_success_counts_from_when_it_started(applier: Applier, engine: Engine) -> None:
    """`last_mirrored` is the start of the mirror, as in the original system."""
    applier.apply(messages(started(BRANCH, 0), completed(BRANCH, 0, "rev-1", end=90)))
    assert state_of(engine, BRANCH) == BranchState(at(0), at(0), "rev-1")


def test_failures_count_up_and_leave_the_success_alone(applier: Applier, engine: Engine) -> None:
    """The status message is that of the latest failure."""
    applier.apply(messages(completed(BRANCH, 0, "rev-1")))
    applier.apply(messages(failed(BRANCH, 10, "first"), failed(BRANCH, 20, "second")))
    assert state_of(engine, BRANCH) == BranchState(at(20), at(0), "rev-1", 2, "second")


def test_a_success_resets_the_failures(applier: Applier, engine: Engine) -> None:
    """It also clears the message."""
    applier.apply(messages(failed(BRANCH, 0, "first"), completed(BRANCH, 10, "rev-2")))
    assert state_of(engine, BRANCH) == BranchState(at(10), at(10), "rev-2")


def test_a_late_event_takes_its_place_in_the_past(applier: Applier, engine: Engine) -> None:
    """Yesterday's success does not hide today's failures; it only starts their count."""
    applier.apply(messages(failed(BRANCH, 0, "old"), failed(BRANCH, 20, "new")))
    applier.apply(messages(completed(BRANCH, 10, "rev-1")))
    assert state_of(engine, BRANCH) == BranchState(at(20), at(10), "rev-1", 1, "new")


def test_an_outcome_may_come_before_its_start(applier: Applier, engine: Engine) -> None:
    """The start then changes nothing."""
    applier.apply(messages(completed(BRANCH, 0, "rev-1")))
    applier.apply(messages(started(BRANCH, 0)))
    assert state_of(engine, BRANCH) == BranchState(at(0), at(0), "rev-1")


def test_the_largest_branch_id_is_a_branch(applier: Applier, engine: Engine) -> None:
    """2^63 - 1 passes every layer."""
    applier.apply(messages(failed(MAX_BRANCH_ID, 0, "x" * 8192)))
    assert state_of(engine, MAX_BRANCH_ID).mirror_failures == 1


def test_a_script_run_is_one_row_however_often_it_comes(applier: Applier, engine: Engine) -> None:
    """Its four columns are its key."""
    run = script_run("puller", 0, 60)
    applier.apply(messages(run, run, script_run("puller", 0, 61)))
    applier.apply(messages(run))
    found = rows(engine, "SELECT name, hostname, date_started FROM script_activity")
    assert found == [("puller", "vostok", at(0))] * 2


Step = tuple[str, int, int, str | None, int]
"""What happened, the index of its branch, the second its attempt started, its text, and when."""
steps: st.SearchStrategy[Step] = st.tuples(
    st.sampled_from(["started", "completed", "failed"]),
    st.integers(0, 2),
    st.integers(0, 5),
    st.sampled_from([None, "", "a", "b", "\u00f6", "\U0001f600"]),
    st.integers(0, 8),
)


def tell(step: Step, branch_ids: list[int]) -> Envelope:
    kind, branch_index, start, saying, end = step
    branch_id = branch_ids[branch_index]
    if kind == "started":
        return started(branch_id, start)
    if kind == "completed":
        return completed(branch_id, start, saying, end)
    return failed(branch_id, start, saying or "", end)


@pytest.fixture(params=[MANY, 2], ids=["many", "two"])
def too_many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """More attempts than these are not read for one event: also so few that histories have them. Of
    their batches, some are few messages and some are not."""
    used_in = {"batch.APPLY_ATTEMPTS": APPLY_ATTEMPTS, "applier.APPLY_FEW": APPLY_FEW}
    for place, original in used_in.items():
        statement = text(original.text.replace(str(MANY), str(request.param)))
        monkeypatch.setattr(f"mirrorfeed.consumer.apply.{place}", statement)
        monkeypatch.setitem(statements.PREPARED, statement, place.replace(".", "_"))
    monkeypatch.setattr("mirrorfeed.consumer.apply.applier.FEW", 3)
    statements._preparations.cache_clear()
    yield
    statements._preparations.cache_clear()


@pytest.mark.usefixtures("too_many")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    story=st.lists(steps, max_size=15),
    repeated=st.lists(st.integers(0, 14), max_size=5),
    order=st.randoms(use_true_random=False),
    batch_sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
)
def test_order_repetition_and_batches_never_matter(
    applier: Applier,
    engine: Engine,
    story: list[Step],
    repeated: list[int],
    order: Random,
    batch_sizes: list[int],
) -> None:
    """Any permutation, repetition and split of a history gives the rows of the plain reference."""
    branch_ids = [next(fresh_branch_ids) for _ in range(3)]
    register_branches(engine, *branch_ids)
    history = [tell(step, branch_ids) for step in story]
    arriving = history + [history[index] for index in repeated if index < len(history)]
    order.shuffle(arriving)
    sizes = cycle(batch_sizes)
    while arriving:
        size = next(sizes)
        applier.apply(messages(*arriving[:size]))
        arriving = arriving[size:]
    expected = fold(history)
    for branch_id in branch_ids:
        assert state_of(engine, branch_id) == expected.get(branch_id, BranchState())


@pytest.mark.usefixtures("too_many")
def test_a_late_success_leaves_behind_the_failures_before_it(
    applier: Applier, engine: Engine
) -> None:
    """Each of several, in any order; one of the failures becomes a success itself."""
    applier.apply(messages(*(failed(BRANCH, second, f"{second}") for second in range(12))))
    for second, failures in ((2.5, 9), (1.5, 9), (5, 6), (5.5, 6), (9.5, 2), (8.5, 2)):
        applier.apply(messages(completed(BRANCH, second, f"rev {second}", end=100)))
        state = state_of(engine, BRANCH)
        assert (state.mirror_failures, state.mirror_status_message) == (failures, "11")
    assert rebuild(engine).differed == []


@pytest.mark.usefixtures("too_many")
def test_what_was_pruned_counts_until_a_later_success(applier: Applier, engine: Engine) -> None:
    """A success before the last failure that was pruned cannot tell which of them it leaves
    behind; one after it leaves behind all."""
    applier.apply(messages(*(failed(BRANCH, second, f"{second}") for second in range(6))))
    assert prune(engine, timedelta(0)).attempts == 5
    applier.apply(messages(*(failed(BRANCH, second, f"{second}") for second in range(6, 12))))
    for second, failures in ((2.5, 12), (4.5, 7), (7.5, 4)):
        applier.apply(messages(completed(BRANCH, second, f"rev {second}")))
        assert state_of(engine, BRANCH).mirror_failures == failures
        assert rebuild(engine).differed == []


@pytest.mark.parametrize("error", ["raise_exception", "assert_failure"])
def test_what_the_database_refuses_is_buried_alone(
    applier: Applier, engine: Engine, error: str
) -> None:
    """Everything else of the batch is committed, whatever came before or after it, and however the
    rule is written: PL/pgSQL's OTHERS does not catch an ASSERT."""
    refuse_in_database(engine, "failure_reason = 'poison'", error)
    batch = messages(
        *(
            failed(BRANCH, second, "poison" if second % 7 == 3 else "fine", end=second)
            for second in range(50)
        )
    )
    tally = applier.apply(batch)
    assert tally.applied == 43
    assert tally.buried == {Reason.REJECTED_BY_DATABASE: 7}
    assert state_of(engine, BRANCH).mirror_failures == 43
    assert (
        rows(engine, "SELECT reason, detail, branch_id, attempts FROM dead_letter")
        == [("rejected-by-database", "no poison here", BRANCH, 1)] * 7
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(poisoned=st.sets(st.integers(0, 2 * PIECE)))
def test_any_part_of_a_batch_may_be_poison(
    applier: Applier, engine: Engine, poisoned: set[int]
) -> None:
    """The rest is committed, and only the poison buried."""
    branch_id = next(fresh_branch_ids)
    register_branches(engine, branch_id)
    refuse_in_database(engine, "failure_reason = 'poison'")
    batch = [
        failed(branch_id, second, "poison" if second in poisoned else "fine")
        for second in range(2 * PIECE + 1)
    ]
    tally = applier.apply(messages(*batch))
    assert tally.buried.total() == len(poisoned)
    assert state_of(engine, branch_id).mirror_failures == len(batch) - len(poisoned)


def test_trouble_while_a_batch_is_taken_apart_buries_nothing(
    applier: Applier, engine: Engine
) -> None:
    """The whole batch is tried again later, its offenders too."""
    refuse_in_database(engine, "failure_reason = 'poison'")
    refuse_in_database(engine, "failure_reason = 'last straw'", "disk_full")
    batch = [
        failed(BRANCH, 0, "poison"),
        failed(BRANCH, 1, "fine"),
        failed(BRANCH, 2, "last straw"),
    ]
    with pytest.raises(DBAPIError):
        applier.apply(messages(*batch))
    assert rows(engine, "SELECT * FROM dead_letter") == []
    assert rows(engine, "SELECT * FROM mirror_attempt") == []


def test_trouble_of_the_server_is_nobodys_fault(applier: Applier, engine: Engine) -> None:
    """A missing table buries nothing: the batch is tried again when it is there."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE mirror_attempt RENAME TO away"))
    with pytest.raises(DBAPIError):
        applier.apply(messages(started(BRANCH, 0)))
    assert rows(engine, "SELECT * FROM dead_letter") == []


def test_a_letter_counts_its_deliveries_on_one_row(applier: Applier, engine: Engine) -> None:
    """It counts those within a batch and those of later batches."""
    (unknown,) = messages(started(404, 0))
    applier.apply([unknown, unknown])
    applier.apply([unknown])
    assert rows(engine, "SELECT reason, branch_id, attempts, state FROM dead_letter") == [
        ("unknown-branch", 404, 3, "dead")
    ]


@pytest.mark.parametrize("forged", [MAX_DELIVERIES, 2**40, 2**63 - 1, 0, -(2**63), "many", None])
def test_a_forged_count_of_deliveries_is_not_believed(
    applier: Applier, engine: Engine, forged: object
) -> None:
    """The letter is there, and was delivered twice, as far as anybody knows."""
    headers = {"x-delivery-count": forged}
    applier.apply([read_message(b"{", headers, deliveries=redeliveries(headers))])
    assert rows(engine, "SELECT attempts FROM dead_letter") == [(2,)]


def test_deliveries_are_counted_as_far_as_the_column_counts(
    applier: Applier, engine: Engine
) -> None:
    """It is no error if they are more, in one batch or over several."""
    headers = {"x-delivery-count": MAX_DELIVERIES - 1}
    message = read_message(b"{", headers, deliveries=redeliveries(headers))
    for batch in ([message, message], [message]):
        applier.apply(batch)
        assert rows(engine, "SELECT attempts FROM dead_letter") == [(MAX_DELIVERIES,)]


def test_what_an_operator_discarded_stays_discarded(applier: Applier, engine: Engine) -> None:
    """A letter that was replayed, and cannot be applied again, is dead again."""
    first, second = messages(started(404, 0), started(405, 0))
    applier.apply([first, second])
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE dead_letter SET resolved_at = now(),"
                " state = CASE branch_id WHEN 404 THEN 'discarded' ELSE 'replayed' END"
            )
        )
    applier.apply([first, second])
    assert rows(
        engine,
        "SELECT state, attempts, resolved_at IS NULL FROM dead_letter ORDER BY branch_id",
    ) == [("discarded", 2, False), ("dead", 2, True)]


def test_headers_are_kept_as_far_as_json_can(applier: Applier, engine: Engine) -> None:
    """AMQP tables hold more kinds of values than jsonb, and a NUL."""
    headers = {
        "text": "a\0b",
        "bytes": b"\xff",
        "when": at(0),
        "nested": {"list": [1, None, float("nan"), Decimal("1.5"), True]},
    }
    applier.apply([read_message(b"{", headers)])
    (row,) = rows(engine, "SELECT headers, body FROM dead_letter")
    assert row.headers == {
        "text": "a\ufffdb",
        "bytes": "\ufffd",
        "when": "2026-01-01 00:00:00+00:00",
        "nested": {"list": [1, None, "nan", "1.5", True]},
    }
    assert bytes(row.body) == b"{"


def test_two_workers_on_the_same_branches_do_not_deadlock(applier: Applier, engine: Engine) -> None:
    """Both lock in the order of the ids, whatever the order of arrival."""
    branch_ids = [next(fresh_branch_ids) for _ in range(20)]
    register_branches(engine, *branch_ids)
    forwards = messages(*(failed(branch_id, 0, "x") for branch_id in branch_ids))
    middle = "SELECT FROM branch WHERE id = :id FOR UPDATE"
    with ThreadPoolExecutor(2) as threads, engine.begin() as other:
        # Both get half way, and would there have what the other needs if each had its own order.
        other.execute(text(middle), {"id": branch_ids[len(branch_ids) // 2]})
        applying = [threads.submit(applier.apply, batch) for batch in (forwards, forwards[::-1])]
        wait_for_rows(
            engine,
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'",
            [(2,)],
        )
        other.rollback()
        for each in applying:
            assert each.result(PATIENCE_SECONDS).applied == len(branch_ids)
    assert all(state_of(engine, branch_id).mirror_failures == 1 for branch_id in branch_ids)
