"""What may be deleted without anybody's noticing."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.branches.rebuild import rebuild
from mirrorfeed.consumer.retention import prune
from mirrorfeed.contract.events import Envelope
from tests.builders import at, completed, failed, messages, started
from tests.reference import BranchState, fold
from tests.servers import (
    PATIENCE_SECONDS,
    branch,
    fresh_branch_ids,
    register_branches,
    rows,
    state_of,
    wait_for_rows,
)

NOTHING = timedelta(0)
steps = st.lists(
    st.one_of(
        st.sampled_from(["started", "failed", "failed", "completed", "prune"]),
        st.integers(0, 20),  # one of the events before comes again
    ),
    max_size=20,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=steps)
def test_whatever_was_pruned_a_branch_shows_the_same(
    engine: Engine, story: list[str | int]
) -> None:
    """However often, in the midst of failures too, and although what was pruned comes again."""
    branch_id = next(fresh_branch_ids)
    register_branches(engine, branch_id)
    applier = Applier(engine)
    history: list[Envelope] = []
    for second, step in enumerate(story):
        if step == "prune":
            prune(engine, NOTHING)
            continue
        if isinstance(step, int):
            if not history:
                continue
            event = history[step % len(history)]
        else:
            event = {
                "started": started(branch_id, second),
                "failed": failed(branch_id, second, f"reason {second}"),
                "completed": completed(branch_id, second, f"rev {second}"),
            }[step]
            history.append(event)
        applier.apply(messages(event))
        assert state_of(engine, branch_id) == fold(history).get(branch_id, BranchState())
    prune(engine, NOTHING)
    assert rebuild(engine, [branch_id]).differed == []
    assert state_of(engine, branch_id) == fold(history).get(branch_id, BranchState())


def test_of_a_branch_that_always_fails_a_few_rows_are_kept(engine: Engine) -> None:
    """Its number of failures stays right, and a success starts it again."""
    register_branches(engine, 1)
    with engine.begin() as connection:
        connection.execute(
            text("""
            INSERT INTO mirror_attempt (branch_id, started_at, finished_at, outcome, failure_reason)
            SELECT
                1, instant, CASE WHEN number % 2 = 0 THEN instant END,
                CASE WHEN number % 2 = 0 THEN 'failed' END,
                CASE WHEN number % 2 = 0 THEN 'reason ' || number END
            FROM generate_series(1, 5001) AS number,
                LATERAL (SELECT timestamptz '2020-01-01' + number * interval '1 s' AS instant) AS x
            """)
        )
    rebuild(engine)
    before = branch(engine, 1)
    assert (before.mirror_failures, before.mirror_status_message) == (2500, "reason 5000")
    assert prune(engine, NOTHING).attempts == 4999
    assert rows(engine, "SELECT outcome FROM mirror_attempt ORDER BY started_at") == [
        ("failed",),
        (None,),
    ]
    assert rebuild(engine).differed == []
    assert branch(engine, 1) == before
    applier = Applier(engine)
    applier.apply(messages(failed(1, 0, "again")))
    assert branch(engine, 1).mirror_failures == 2501
    applier.apply(messages(completed(1, 1, "rev"), failed(1, 2, "since")))
    assert state_of(engine, 1).mirror_failures == 1
    assert rebuild(engine).differed == []


def test_an_attempt_that_ends_while_it_is_pruned_stays(engine: Engine) -> None:
    """The pruning has found it unfinished, and waits for whoever writes its end."""
    register_branches(engine, 1)
    Applier(engine).apply(messages(started(1, 0), started(1, 1)))
    with ThreadPoolExecutor(1) as threads, engine.begin() as ending:
        ending.execute(
            text(
                "UPDATE mirror_attempt SET outcome = 'failed', finished_at = started_at"
                " WHERE started_at = :at"
            ),
            {"at": at(0)},
        )
        pruning = threads.submit(prune, engine, NOTHING)
        wait_for_rows(
            engine,
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'",
            [(1,)],
        )
        ending.commit()
        assert pruning.result(PATIENCE_SECONDS).attempts == 0
    assert rows(engine, "SELECT count(*) FROM mirror_attempt") == [(2,)]
