"""Many workers, and a number of partitions that changes while they work."""

import json
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker
from sqlalchemy import Engine, text

from mirrorfeed.contract import environment, routing
from mirrorfeed.publisher import BranchStatusClient
from sandbox import wait_until
from tests.builders import failed
from tests.commands import Shell
from tests.servers import (
    PATIENCE_SECONDS,
    publish_events,
    register_branches,
    rows,
    wait_for_rows,
)

BRANCHES = range(1, 65)
RUN = ("mirror-consumer", "run")
MOVE = ("mirror-consumer", "topology", "--partitions")
TAKEOVER_SECONDS = 10.0
TRAFFIC_PAUSE_SECONDS = 0.002


@pytest.fixture
def shell8(amqp_url: str, database_url: str, engine: Engine) -> Shell:
    """A mirrorfeed that was made with eight partitions."""
    shell = Shell(
        {
            environment.AMQP_URL: amqp_url,
            environment.DATABASE_URL: database_url,
            environment.PARTITIONS: "8",
        }
    )
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM topology"))
    shell.run("mirror-consumer", "init")
    register_branches(engine, *BRANCHES)
    return shell


def topology_of(shell: Shell) -> Any:
    return json.loads(shell.run("mirror-consumer", "topology", "--json").stdout)


def served_by(shell: Shell) -> dict[str, int]:
    """Process id of the worker that consumes each queue."""
    queues = topology_of(shell)["queues"]
    return {each["queue"]: each["worker"]["pid"] for each in queues if each["is_consumed"]}


def queue_of(branch: int) -> str:
    return routing.partition_queue(routing.slot_of(f"branch:{branch}") % 8)


def await_shares(engine: Engine, *shares: int) -> None:
    """Each queue has one subscriber: its previous one has given it up."""
    wait_for_rows(
        engine,
        "SELECT cardinality(queues) FROM worker ORDER BY 1",
        [(share,) for share in shares],
    )


def test_workers_share_evenly_and_take_over(shell8: Shell, engine: Engine) -> None:
    """With two, four and eight workers; a killed one's share is applied within 10 s."""
    workers: list[Popen[str]] = []
    try:
        for count in (2, 4, 8):
            workers += [shell8.start(*RUN) for _ in range(count - len(workers))]
            await_shares(engine, *[8 // count] * count)
        workers[2].kill()
        amqp_url = shell8.variables[environment.AMQP_URL]
        publish_events(amqp_url, *(failed(branch, 0, "x") for branch in BRANCHES))
        wait_until(
            lambda: rows(engine, "SELECT count(*) FROM mirror_attempt") == [(len(BRANCHES),)],
            TAKEOVER_SECONDS,
            "the killed worker's share to be taken over",
        )
        await_shares(engine, 1, 1, 1, 1, 1, 1, 2)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_a_killed_worker_is_known_to_be_gone_at_once(shell8: Shell, engine: Engine) -> None:
    """health and topology agree."""
    worker = shell8.start(*RUN)
    try:
        await_shares(engine, 8)
    finally:
        worker.kill()
        worker.communicate()
    assert "no worker consumes" in shell8.run("mirror-consumer", "health", expect=1).stderr
    assert [each["worker"] for each in topology_of(shell8)["queues"]] == [None] * 8


@pytest.mark.parametrize(("limit", "command"), [(1, ("init",)), (2, ("run", "--drain"))])
def test_too_few_channels_are_an_error_that_says_so(
    shell8: Shell, limit: int, command: tuple[str, ...]
) -> None:
    """It names the limit and where to raise it."""
    url = f"{shell8.variables[environment.AMQP_URL]}?channel_max={limit}"
    refused = shell8.run("mirror-consumer", *command, "--amqp-url", url, expect=2)
    assert re.search(
        rf"may open only {limit} of the \d channels .* raise channel_max", refused.stderr
    )
    assert "Traceback" not in refused.stderr


def test_the_broker_serves_each_queue_to_its_owner(shell8: Shell, engine: Engine) -> None:
    """What a frozen worker owns waits until it wakes up."""
    with shell8.running(*RUN) as first:
        await_shares(engine, 8)
        with shell8.running(*RUN) as second:
            await_shares(engine, 4, 4)
            amqp_url = shell8.variables[environment.AMQP_URL]
            # The first events end the caution with which a subscription begins.
            publish_events(amqp_url, *(failed(branch, 0, "x") for branch in BRANCHES))
            wait_for_rows(engine, "SELECT count(*) FROM mirror_attempt", [(len(BRANCHES),)])
            servers = served_by(shell8)
            own = [branch for branch in BRANCHES if servers[queue_of(branch)] == first.pid]
            second.send_signal(signal.SIGSTOP)
            publish_events(amqp_url, *(failed(branch, 1, "x") for branch in BRANCHES))
            wait_for_rows(
                engine,
                "SELECT count(*) FROM branch WHERE mirror_failures = 2",
                [(len(own),)],
            )
            second.send_signal(signal.SIGCONT)
            wait_for_rows(
                engine,
                "SELECT count(*) FROM branch WHERE mirror_failures = 2",
                [(len(BRANCHES),)],
            )


@contextmanager
def traffic(amqp_url: str, spool: Path) -> Iterator[list[int]]:
    """One branch after the other is mirrored, again and again; how many attempts there were."""
    attempts = [0]
    stop = threading.Event()

    def report() -> None:
        with BranchStatusClient(spool, amqp_url) as client:
            while not stop.is_set():
                for branch in BRANCHES:
                    client.start_mirroring(branch)
                    client.mirror_complete(branch, f"r{attempts[0]}")
                    attempts[0] += 1
                    stop.wait(TRAFFIC_PAUSE_SECONDS)
            assert client.flush(timeout_seconds=PATIENCE_SECONDS)

    with ThreadPoolExecutor(1) as threads:
        reporting = threads.submit(report)
        try:
            yield attempts
        finally:
            stop.set()
            reporting.result()


@contextmanager
def readers_see_only_progress(engine: Engine) -> Iterator[None]:
    """No branch ever shows an older attempt than it did before."""
    stop = threading.Event()

    def watch() -> list[Any]:
        seen: dict[int, Any] = {}
        steps_back: list[Any] = []
        while not stop.is_set():
            for branch, at in rows(engine, "SELECT id, last_mirrored FROM branch"):
                if at is not None and branch in seen and at < seen[branch]:
                    steps_back.append((branch, seen[branch], at))
                if at is not None:
                    seen[branch] = at
        return steps_back

    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watch)
        try:
            yield
        finally:
            stop.set()
            assert watching.result() == []


@contextmanager
def events_are_applied_in_order(engine: Engine) -> Iterator[None]:
    """Within each branch; PostgreSQL refuses to do anything else, and then letters show it."""
    with engine.begin() as connection:
        connection.execute(
            text("""
            CREATE FUNCTION in_order() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.last_mirror_attempt < OLD.last_mirror_attempt
                    OR EXISTS (SELECT FROM mirror_attempt WHERE branch_id = NEW.id
                        AND outcome IS NULL AND started_at < NEW.last_mirrored)
                THEN RAISE EXCEPTION 'out of order'; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER in_order BEFORE UPDATE ON branch
            FOR EACH ROW EXECUTE FUNCTION in_order();
            """)
        )
    yield
    assert rows(engine, "SELECT detail FROM dead_letter") == []


def queues_of(amqp_url: str) -> set[str]:
    """Those partition queues, of any kind, that are there."""
    names = routing.partition_queues(12) + routing.interim_queues(12)
    found = set()
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        for name in names:
            channel = connection.channel()
            try:
                channel.queue_declare(name, passive=True)
            except ChannelClosedByBroker:
                continue
            found.add(name)
            channel.close()
    return found


def test_partitions_move_while_events_come(shell8: Shell, engine: Engine, tmp_path: Path) -> None:
    """Going to more or to fewer loses nothing, keeps the order and leaves no old queue behind."""
    amqp_url = shell8.variables[environment.AMQP_URL]
    with shell8.running(*RUN), shell8.running(*RUN):
        await_shares(engine, 4, 4)
        with (
            events_are_applied_in_order(engine),
            readers_see_only_progress(engine),
            traffic(amqp_url, tmp_path / "spool.db") as attempts,
        ):
            for count in (11, 3):
                before = attempts[0]
                shell8.run(*MOVE, str(count))
                assert attempts[0] > before
                assert queues_of(amqp_url) == set(routing.partition_queues(count))
        applied = "SELECT count(outcome) FROM mirror_attempt"
        wait_for_rows(engine, applied, [(attempts[0],)])
    audit = json.loads(shell8.run("mirror-consumer", "audit", "--json").stdout)
    assert audit["missing_total"] == 0
    assert [source["highest"] for source in audit["sources"]] == [2 * attempts[0]]


def test_markers_that_are_not_kept_are_seen_all_the_same(shell8: Shell, engine: Engine) -> None:
    """Workers that demand a user make letters of the first ones, and only count the others."""
    with shell8.running(*RUN, "--require-user", "puller", "--letters-per-hour", "2"):
        shell8.run(*MOVE, "2")
    assert topology_of(shell8)["stage"] == "steady"
    counted = "SELECT DISTINCT source, reason FROM letter_overflow"
    assert rows(engine, counted) == [("/mirror-consumer/topology", "invalid")]


def test_a_move_that_was_interrupted_goes_on(shell8: Shell, engine: Engine) -> None:
    """It can be resumed after a kill, and no second move can begin meanwhile."""
    amqp_url = shell8.variables[environment.AMQP_URL]
    publish_events(amqp_url, *(failed(branch, 0, "x") for branch in BRANCHES))
    move = shell8.start(*MOVE, "3")
    assert move.stderr is not None
    waiting = f"waiting for the workers to apply {len(BRANCHES) + 8} messages\n"
    while move.stderr.readline() != waiting:
        assert move.poll() is None
    publish_events(amqp_url, *(failed(branch, 1, "x") for branch in BRANCHES))
    second = shell8.run(*MOVE, "3", expect=2)
    assert "another mirror-consumer topology --partitions is running" in second.stderr
    move.kill()
    move.communicate()
    assert topology_of(shell8)["stage"] == "to-interim"
    other = shell8.run(*MOVE, "5", expect=2)
    assert "a move to 3 partitions is under way" in other.stderr
    with shell8.running(*RUN):
        shell8.run(*MOVE, "3")
        wait_for_rows(
            engine, "SELECT count(*) FROM branch WHERE mirror_failures = 2", [(len(BRANCHES),)]
        )
    assert topology_of(shell8)["stage"] == "steady"
    assert queues_of(amqp_url) == set(routing.partition_queues(3))


def test_the_number_of_partitions_is_said_once(shell8: Shell) -> None:
    """Giving another number later gets an error that says how to change it."""
    result = shell8.run("mirror-consumer", "init", "--partitions", "4", expect=2)
    assert "there are 8 partitions already, not 4" in result.stderr
    assert "mirror-consumer topology --partitions 4" in result.stderr


def test_what_the_environment_says_counts_once(shell8: Shell) -> None:
    """A service that runs init at each start still works after a move."""
    with shell8.running(*RUN):
        shell8.run(*MOVE, "2")
    shell8.run("mirror-consumer", "init")
    assert [each["queue"] for each in topology_of(shell8)["queues"]] == (
        routing.partition_queues(2)
    )
