"""A worker among servers, and workers, that die."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pika
from sqlalchemy import Engine, text

from mirrorfeed.contract import exit_codes, routing
from mirrorfeed.contract.events import Envelope
from sandbox import Server
from tests.builders import completed, failed, started
from tests.commands import Shell
from tests.reference import fold
from tests.servers import (
    PATIENCE_SECONDS,
    branch,
    publish_events,
    register_branches,
    rows,
    wait_for,
    wait_for_rows,
)

BRANCHES = range(1, 11)
ATTEMPTS = "SELECT count(*) FROM mirror_attempt"


def history(attempts: int, begin: int = 0) -> list[Envelope]:
    """Every branch fails and succeeds in turn."""
    events: list[Envelope] = []
    for second in range(begin, begin + attempts):
        for branch_id in BRANCHES:
            events.append(started(branch_id, second))
            events.append(
                completed(branch_id, second, f"rev-{second}")
                if (second + branch_id) % 3 == 0
                else failed(branch_id, second, f"why {second}")
            )
    return events


def assert_rows_are_those_of(events: list[Envelope], engine: Engine) -> None:
    """Every branch is as the reference has it, and nothing was buried."""
    for branch_id, state in fold(events).items():
        row = branch(engine, branch_id)
        assert row.last_mirror_attempt == state.last_mirror_attempt
        assert row.last_mirrored == state.last_mirrored
        assert row.last_mirrored_id == state.last_mirrored_id
        assert row.mirror_failures == state.mirror_failures
        assert row.mirror_status_message == state.mirror_status_message
    assert rows(engine, "SELECT * FROM dead_letter") == []


HOLD = """
    CREATE TABLE IF NOT EXISTS held ();
    CREATE OR REPLACE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        WHILE EXISTS (SELECT FROM held) LOOP
            PERFORM pg_sleep(0.02);
        END LOOP;
        RETURN NULL;
    END $$;
    CREATE OR REPLACE TRIGGER hold BEFORE INSERT ON mirror_attempt
        FOR EACH STATEMENT EXECUTE FUNCTION hold();
"""


@contextmanager
def held(engine: Engine) -> Iterator[None]:
    """Has a batch stay in hand for as long as a test wants. Not by a lock: that would have the
    batch wait aside."""
    with engine.begin() as connection:
        connection.execute(text(HOLD))
        connection.execute(text("INSERT INTO held DEFAULT VALUES"))
    yield
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM held"))


def has_batch_in_hand(engine: Engine) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    return rows(engine, query) != [(0,)]


def test_a_worker_killed_in_mid_batch_loses_and_repeats_nothing(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """The next worker applies what was not committed, in order."""
    register_branches(engine, *BRANCHES)
    events = history(5)
    with held(engine):
        publish_events(topology, *events)
        worker = shell.start("mirror-consumer", "run")
        wait_for(lambda: has_batch_in_hand(engine), "a batch in hand")
        worker.kill()
        worker.communicate()
    shell.run("mirror-consumer", "run", "--drain")
    assert_rows_are_those_of(events, engine)
    assert rows(engine, ATTEMPTS) == [(5 * len(BRANCHES),)]


def test_sigterm_finishes_the_batch(shell: Shell, engine: Engine, topology: str) -> None:
    """The batch is committed and acked, so nothing of it is delivered again."""
    register_branches(engine, *BRANCHES)
    events = history(1)
    with held(engine):
        publish_events(topology, *events)
        worker = shell.start("mirror-consumer", "run", "--batch-size", "10000")
        wait_for(lambda: has_batch_in_hand(engine), "a batch in hand")
        worker.send_signal(signal.SIGTERM)
    _, log = worker.communicate(timeout=10)
    assert worker.returncode == 0, log
    assert '"applied": 0' not in log
    shell.run("mirror-consumer", "run", "--drain")
    assert_rows_are_those_of(events, engine)


def test_sigterm_ends_a_worker_whose_database_does_not_answer(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """It exits with 0 within 10 s, and the next worker applies what it had in hand."""
    register_branches(engine, *BRANCHES)
    events = history(1)
    with held(engine):
        publish_events(topology, *events)
        worker = shell.start("mirror-consumer", "run")
        wait_for(lambda: has_batch_in_hand(engine), "a batch in hand")
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=10)
        assert worker.returncode == 0, log
    shell.run("mirror-consumer", "run", "--drain")
    assert_rows_are_those_of(events, engine)


def test_a_worker_outlives_a_restart_of_the_broker(
    shell: Shell, engine: Engine, topology: str, broker: Server
) -> None:
    """It declares and subscribes again, and the rows come out right."""
    register_branches(engine, *BRANCHES)
    first, second = history(20), history(20, begin=20)
    with shell.running("mirror-consumer", "run"):
        publish_events(topology, *first)
        broker.kill()
        broker.start()
        publish_events(topology, *second)
        wait_for_rows(engine, ATTEMPTS, [(40 * len(BRANCHES),)])
    shell.run("mirror-consumer", "run", "--drain")
    assert_rows_are_those_of(first + second, engine)


def test_a_worker_without_its_broker_lives_and_is_not_ready(
    shell: Shell, engine: Engine, topology: str, broker: Server
) -> None:
    """A restart of the worker would not help; it is ready again when the broker is."""

    def health(expect: int) -> dict[str, Any]:
        done = subprocess.run(
            shell.arguments(("mirror-consumer", "health", "--json")),
            env=shell.environment(),
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        told: dict[str, Any] = json.loads(done.stdout)
        return told | {"is_expected": done.returncode == expect}

    def is_well() -> bool:
        told = health(0)
        return bool(told["live"] and told["ready"] and told["progress"] and told["is_expected"])

    with shell.running("mirror-consumer", "run"):
        wait_for(is_well, "a healthy worker")
        broker.kill()
        try:
            wait_for(lambda: not health(exit_codes.UNREACHABLE)["ready"], "an outage")
            told = health(exit_codes.UNREACHABLE)
            assert (told["live"], told["progress"], told["is_expected"]) == (True, None, True)
        finally:
            broker.start()
        wait_for(is_well, "a healthy worker")


def test_a_worker_outlives_a_restart_of_the_database(
    shell: Shell, engine: Engine, topology: str, database: Server
) -> None:
    """While it drains, the batch in hand is tried again; the log says once that it is away."""
    register_branches(engine, *BRANCHES)
    events = history(100)
    publish_events(topology, *events)
    with shell.running("mirror-consumer", "run", "--batch-size", "20") as worker:
        wait_for(lambda: rows(engine, ATTEMPTS) != [(0,)], "the first batch")
        database.kill()
        database.start()
        engine.dispose()
        wait_for_rows(engine, ATTEMPTS, [(100 * len(BRANCHES),)])
        worker.terminate()
        _, log = worker.communicate(timeout=10)
    outages = re.findall("WARNING (.*) is away", log)
    assert outages
    assert sorted(set(outages)) == sorted(outages), log
    shell.run("mirror-consumer", "run", "--drain")
    assert_rows_are_those_of(events, engine)


def test_a_deleted_queue_comes_back_with_its_consumer(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """The worker declares it again and goes on."""
    register_branches(engine, *BRANCHES)
    with (
        shell.running("mirror-consumer", "run"),
        pika.BlockingConnection(pika.URLParameters(topology)) as connection,
    ):
        channel = connection.channel()
        first, second = history(1), history(1, begin=1)
        publish_events(topology, *first)
        wait_for_rows(engine, ATTEMPTS, [(len(BRANCHES),)])
        for partition in range(routing.DEFAULT_PARTITIONS):
            channel.queue_delete(routing.partition_queue(partition))

        def is_consumed(partition: int) -> bool:
            queue = routing.partition_queue(partition)
            try:
                with pika.BlockingConnection(pika.URLParameters(topology)) as other:
                    declared = other.channel().queue_declare(queue, passive=True)
            except pika.exceptions.ChannelClosedByBroker:
                return False
            return bool(declared.method.consumer_count)

        for partition in range(routing.DEFAULT_PARTITIONS):
            wait_for(partial(is_consumed, partition), "a new consumer")
        publish_events(topology, *second)
        wait_for_rows(engine, ATTEMPTS, [(2 * len(BRANCHES),)])
    assert_rows_are_those_of(first + second, engine)


def test_a_frozen_worker_does_no_harm_when_it_wakes_up(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """Another one has taken over, and the old batch, committed late, changes nothing."""
    register_branches(engine, *BRANCHES)
    first, second = history(3), history(3, begin=3)
    impatient = f"{topology}?heartbeat=2"  # so that the broker gives a frozen worker up soon
    frozen = shell.start("mirror-consumer", "run", "--amqp-url", impatient)
    with held(engine):
        publish_events(topology, *first)
        wait_for(lambda: has_batch_in_hand(engine), "a batch in hand")
        frozen.send_signal(signal.SIGSTOP)
    publish_events(topology, *second)
    with shell.running("mirror-consumer", "run"):
        wait_for_rows(engine, ATTEMPTS, [(6 * len(BRANCHES),)])
        frozen.send_signal(signal.SIGCONT)
        frozen.send_signal(signal.SIGTERM)
        _, log = frozen.communicate(timeout=20)
        assert frozen.returncode == 0, log
    assert_rows_are_those_of(first + second, engine)


def test_a_batch_that_takes_long_costs_no_connection(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """The broker gets its heartbeats during the transaction, so nothing is delivered again."""
    register_branches(engine, *BRANCHES)
    events = history(1)
    impatient = f"{topology}?heartbeat=1"  # the broker gives up after two
    with shell.running("mirror-consumer", "run", "--amqp-url", impatient) as worker:
        with held(engine):
            publish_events(topology, *events)
            wait_for(lambda: has_batch_in_hand(engine), "a batch in hand")
            begun_at = time.monotonic()
            wait_for(lambda: time.monotonic() > begun_at + 5, "several heartbeats")
        wait_for_rows(engine, ATTEMPTS, [(len(BRANCHES),)])
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=10)
        assert log.count("INFO consuming") == 1, log
    assert_rows_are_those_of(events, engine)


# The order in which attempts were first written.
LOG_WRITES = """
    CREATE TABLE written (id bigint GENERATED ALWAYS AS IDENTITY, started_at timestamptz);
    CREATE FUNCTION log_write() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO written (started_at) VALUES (NEW.started_at); RETURN NULL; END $$;
    CREATE TRIGGER log_write AFTER INSERT ON mirror_attempt
    FOR EACH ROW EXECUTE FUNCTION log_write()
"""
STOP_LOGGING = """
    DROP TABLE written;
    DROP FUNCTION log_write CASCADE
"""
WRITTEN = "SELECT count(*) FROM written"
STEPS_BACK = """
    SELECT count(*) FROM (
        SELECT started_at < lag(started_at) OVER (ORDER BY id) AS is_back FROM written
    ) AS step WHERE is_back
"""


def test_a_worker_told_to_end_leaves_its_partition_in_order(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """Another one continues where it stopped and sees nothing newer first."""
    register_branches(engine, *BRANCHES)
    first, second = ([failed(1, n, "x") for n in range(begin, begin + 600)] for begin in (0, 600))
    with engine.begin() as connection:
        connection.execute(text(LOG_WRITES))
    try:
        active = shell.start("mirror-consumer", "run", "--batch-size", "400")
        publish_events(topology, failed(1, -1, "x"))
        wait_for_rows(engine, WRITTEN, [(1,)])
        with shell.running("mirror-consumer", "run", "--batch-size", "400") as other:
            assert other.stderr is not None
            assert any("INFO consuming" in line for line in other.stderr)
            with held(engine):
                publish_events(topology, *first)
                wait_for(lambda: has_batch_in_hand(engine), "a batch in hand")
                active.send_signal(signal.SIGTERM)
            publish_events(topology, *second)
            _, log = active.communicate(timeout=15)
            assert active.returncode == 0, log
            wait_for_rows(engine, WRITTEN, [(1201,)])
        assert rows(engine, STEPS_BACK) == [(0,)]
    finally:
        with engine.begin() as connection:
            connection.execute(text(STOP_LOGGING))
