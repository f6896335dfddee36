"""The table of workers, which each of them writes once a second."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.ledger import has_notes
from mirrorfeed.consumer.partitions.assignment import Membership
from mirrorfeed.consumer.partitions.layout import read_layout
from tests.servers import executed_statements, rows

QUEUES = ["a", "b"]


@pytest.fixture
def worker(engine: Engine) -> Iterator[Membership]:
    worker = Membership(engine, None)
    worker.take_part([], QUEUES)
    yield worker
    worker.leave()


def test_a_beat_to_which_nothing_happens_is_one_statement(
    engine: Engine, worker: Membership
) -> None:
    """It says how this worker is, and hears how the others are, in one round trip."""
    other = Membership(engine, None)
    other.take_part(["b"], QUEUES)
    with executed_statements(engine) as executed:
        assignment = worker.take_part(["a", "b"], QUEUES, '{"turned_seconds": 1.0}')
    assert assignment.own == {"a"}
    assert assignment.served == {"b"}
    assert len(executed) == 1
    assert rows(engine, "SELECT queues, report FROM worker ORDER BY number LIMIT 1") == [
        (["a", "b"], {"turned_seconds": 1.0})
    ]
    other.leave()


def test_a_worker_counts_as_it_says_in_the_same_beat(engine: Engine, worker: Membership) -> None:
    """One that has just reached the broker takes its queues at once."""
    assert worker.take_part([], QUEUES, '{"is_connected": false}').own == set()
    assert worker.take_part([], QUEUES, '{"is_connected": true}').own == set(QUEUES)


@pytest.mark.parametrize(
    "dies", ["backend_pid = 0", "seen_at = now() - interval '1 min'", "backend_pid = NULL"]
)
def test_a_dead_worker_is_forgotten_in_the_beat_that_finds_it(
    engine: Engine, worker: Membership, dies: str
) -> None:
    """It has ended, or is frozen, or was of 0.1.0 and has let go of its lock."""
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO worker (hostname, pid, backend_pid) VALUES ('host', 1, 0)")
        )
        connection.execute(text(f"UPDATE worker SET {dies} WHERE hostname = 'host'"))
    assert worker.take_part([], QUEUES).own == set(QUEUES)
    assert rows(engine, "SELECT count(*) FROM worker") == [(1,)]


def test_a_worker_that_was_taken_for_dead_joins_again(engine: Engine, worker: Membership) -> None:
    """It was frozen for so long that the others forgot it."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM worker"))
    assert worker.take_part([], QUEUES).own == set(QUEUES)
    assert rows(engine, "SELECT count(*) FROM worker") == [(1,)]


def test_what_else_a_beat_asks_goes_through_the_same_connection(
    engine: Engine, worker: Membership
) -> None:
    """One statement each. Once the connection is lost there is no answer until it has another."""
    with executed_statements(engine) as executed:
        assert worker.ask(has_notes) is False
    assert len(executed) == 1
    rows(engine, "SELECT pg_terminate_backend(backend_pid, 10000) FROM worker")
    with pytest.raises(DBAPIError):
        worker.ask(read_layout)
    assert worker.ask(has_notes) is None
    worker.take_part([], QUEUES)
    assert worker.ask(has_notes) is False
