"""Operations whose connection dies between a commit and its answer."""

import threading

from sqlalchemy import Engine

from mirrorfeed.consumer.dead_letters.plan import plan
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.consumer.operations import store
from mirrorfeed.consumer.operations.perform import Step, perform
from mirrorfeed.consumer.operations.store import Kind, Operation, State
from tests.builders import failed
from tests.letters import bury
from tests.servers import answer_lost, register_branches, rows

RUNNER = "tester"
OPERATION = "SELECT state, result FROM operation"
LETTERS = "SELECT state, count(*) FROM dead_letter GROUP BY 1 ORDER BY 1"
OUTCOMES = "SELECT cardinality(outcomes) FROM operation_piece"
HAS_REPLAYED = "SELECT EXISTS (SELECT FROM dead_letter WHERE state = 'replayed')"
HAS_DISCARDED = "SELECT EXISTS (SELECT FROM dead_letter WHERE state = 'discarded')"
IS_DONE = "SELECT EXISTS (SELECT FROM operation WHERE state = 'done')"


def begun(engine: Engine, kind: Kind, rate: float | None = None) -> Operation:
    """An operation on all letters, which RUNNER carries out."""
    with engine.begin() as connection:
        letters = [(each.id, each.digest) for each in plan(connection, Selection())]
        operation_id = store.begin(
            connection, kind, {}, letters, RUNNER, state=State.RUNNING, rate=rate, runner=RUNNER
        )
        return store.get(connection, operation_id)


def carry_out(engine: Engine, operation: Operation) -> list[Step]:
    return list(perform(engine, operation, RUNNER, threading.Event()))


def test_a_step_whose_answer_is_lost_is_done_once(engine: Engine) -> None:
    """Its letters count as applied, and each of the others has its turn."""
    bury(engine, *(failed(branch, 0, "why") for branch in range(1, 11)))
    register_branches(engine, *range(1, 11))
    operation = begun(engine, Kind.APPLY, rate=16)
    with answer_lost(engine, HAS_REPLAYED):
        steps = carry_out(engine, operation)
    assert [(step.letters, step.skipped) for step in steps] == [(4, 0), (4, 0), (2, 0)]
    assert rows(engine, LETTERS) == [("replayed", 10)]
    assert rows(engine, OUTCOMES) == [(10,)]
    assert rows(engine, OPERATION) == [("done", {"applied": 10})]


def test_a_first_letter_whose_answer_is_lost_waits_for_the_operator(engine: Engine) -> None:
    """It was applied: nobody has stopped the operation."""
    bury(engine, failed(1, 0, "why"), failed(2, 0, "why"))
    register_branches(engine, 1, 2)
    with engine.begin() as connection:
        previewed = begun(engine, Kind.APPLY)
        connection.exec_driver_sql("UPDATE operation SET first_alone = true")
        operation = store.get(connection, previewed.id)
    with answer_lost(engine, HAS_REPLAYED):
        (step,) = carry_out(engine, operation)
    assert (step.letters, step.skipped) == (1, 0)
    assert rows(engine, OPERATION) == [("waiting", {"applied": 1})]


def test_an_operation_that_ends_unanswered_has_ended(engine: Engine) -> None:
    """That it is done is noted once all letters have had their turn."""
    bury(engine, failed(1, 0, "why"))
    register_branches(engine, 1)
    operation = begun(engine, Kind.APPLY)
    with answer_lost(engine, IS_DONE):
        (step,) = carry_out(engine, operation)
    assert (step.letters, step.skipped) == (1, 0)
    assert rows(engine, OPERATION) == [("done", {"applied": 1})]


def test_letters_whose_discard_is_not_answered_are_discarded(engine: Engine) -> None:
    """Nobody else has gone on with it."""
    bury(engine, *(failed(branch, 0, "why") for branch in range(1, 6)))
    operation = begun(engine, Kind.DISCARD)
    with answer_lost(engine, HAS_DISCARDED):
        (step,) = carry_out(engine, operation)
    assert step.letters == 5
    assert rows(engine, LETTERS) == [("discarded", 5)]
    assert rows(engine, OPERATION) == [("done", {"discarded": 5})]
