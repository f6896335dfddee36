"""Health is progress: what stands still is named, although somebody is there."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pika
import pytest
from sqlalchemy import Engine

from mirrorfeed.amqp.connections import Addresses, broker_channel, connection_parameters
from mirrorfeed.consumer.apply.message import Limits
from mirrorfeed.consumer.worker import service
from mirrorfeed.consumer.worker.settings import Settings
from mirrorfeed.contract import exit_codes, routing
from tests.builders import completed, failed, started
from tests.commands import Shell
from tests.frozen_worker import FREEZING
from tests.servers import (
    PATIENCE_SECONDS,
    locked,
    publish_events,
    register_branches,
    state_of,
    wait_for,
    wait_for_rows,
)

BRANCH, OTHER = 1, 2
"""Of different partitions."""
QUEUE = routing.partition_queue(routing.slot_of(f"branch:{BRANCH}") % routing.DEFAULT_PARTITIONS)
STALLED = ("mirror-consumer", "health", "--stalled-after", "5s", "--json")


def health(shell: Shell) -> dict[str, Any]:
    process = shell.start(*STALLED)
    output, _ = process.communicate(timeout=30)
    verdict: dict[str, Any] = json.loads(output)
    is_well = verdict["live"] and verdict["ready"] and verdict["progress"]
    assert process.returncode == int(not is_well)
    return verdict


def problems(shell: Shell) -> dict[str, str]:
    return {each["subject"]: each["because"] for each in health(shell)["problems"]}


@contextmanager
def stopping(what: str, shell: Shell) -> Iterator[None]:
    """A worker in which that stops at a message."""
    command = [sys.executable, "-m", "tests.frozen_worker", what]
    worker = subprocess.Popen(command, env=shell.environment(), stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        worker.kill()
        worker.wait()


def wait_for_problem(shell: Shell, subject: str, because: str) -> None:
    wait_for(lambda: because in problems(shell).get(subject, ""), because)


def test_a_worker_that_progresses_is_well(shell: Shell, engine: Engine, topology: str) -> None:
    """However long nothing has come."""
    register_branches(engine, BRANCH)
    with shell.running("mirror-consumer", "run"):
        publish_events(topology, completed(BRANCH, 0, "rev-1"))
        wait_for(lambda: state_of(engine, BRANCH).last_mirrored_id == "rev-1", "the event")
        wait_for(lambda: not problems(shell), "a healthy worker")

        def settled() -> dict[str, int]:
            (worker,) = health(shell)["workers"]
            return dict(worker["report"].get("settled", {}))

        wait_for(lambda: settled() == {QUEUE: 1}, "the event in the worker's report")


def test_an_applier_that_hangs_is_named_although_its_worker_is_heard(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """The other threads go on."""
    register_branches(engine, BRANCH)
    with stopping("applier", shell):
        publish_events(topology, failed(BRANCH, 0, FREEZING))
        wait_for_problem(shell, QUEUE, "has had one batch in hand for")


@pytest.mark.parametrize("what", ["io", "deaf"])
def test_a_worker_that_gets_nothing_is_named_although_it_is_heard(
    shell: Shell, engine: Engine, topology: str, what: str
) -> None:
    """Its I/O thread hangs, or it is connected again and the broker serves it nothing."""
    register_branches(engine, BRANCH)
    with stopping(what, shell):
        publish_events(topology, failed(BRANCH, 0, FREEZING), started(BRANCH, 1))
        wait_for_problem(shell, QUEUE, "and gets nothing from the broker")


def test_a_worker_is_well_again_after_its_queue_was_deleted(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """The broker cancels the subscription; the worker declares the queue again."""
    register_branches(engine, BRANCH)
    with shell.running("mirror-consumer", "run"):
        wait_for(lambda: not problems(shell), "a healthy worker")
        with broker_channel(connection_parameters(topology)) as channel:
            channel.queue_delete(QUEUE)
        wait_for(lambda: not problems(shell), "a healthy worker")
        publish_events(topology, started(BRANCH, 0))
        wait_for(lambda: state_of(engine, BRANCH).last_mirror_attempt is not None, "the event")


def test_a_partition_whose_messages_wait_for_a_lock_is_named(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """With who has locked it; the partitions beside it are well."""
    register_branches(engine, BRANCH, OTHER)
    with shell.running("mirror-consumer", "run"):
        with locked(engine, f"UPDATE branch SET url = 'x' WHERE id = {BRANCH}") as pid:
            publish_events(topology, started(BRANCH, 0), started(OTHER, 0))
            wait_for_problem(shell, QUEUE, f"branch:{BRANCH} locked by pid {pid} ")
            assert list(problems(shell)) == [QUEUE]
        wait_for(lambda: not problems(shell), "recovery")


def test_a_consumer_that_gets_nothing_is_named(shell: Shell, engine: Engine, topology: str) -> None:
    """Somebody else holds the queue, which has a single active consumer."""
    with (
        pika.BlockingConnection(pika.URLParameters(topology)) as connection,
        shell.running("mirror-consumer", "run"),
    ):
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(QUEUE, lambda *_: None)
        publish_events(topology, started(BRANCH, 0), started(BRANCH, 1))
        wait_for_problem(shell, QUEUE, "and gets nothing from the broker")


def test_what_a_worker_consumes_is_known_at_once(
    engine: Engine, topology: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before its next beat; else it would seem that nobody is to be heard there."""
    monkeypatch.setattr(service, "BEAT_SECONDS", 3600.0)
    worker = service.Worker(
        engine,
        Addresses(topology, name="test"),
        Settings(batch_size=10, limits=Limits(), drain=False),
        share=None,
        default_partitions=routing.DEFAULT_PARTITIONS,
    )
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(worker.run)
        try:
            queues = [routing.partition_queue(place) for place in range(routing.DEFAULT_PARTITIONS)]
            wait_for_rows(engine, "SELECT queues FROM worker", [(queues,)])
        finally:
            worker.stop()
        running.result(PATIENCE_SECONDS)


def test_a_connection_that_does_not_end_ends_the_worker(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """Else its queues would stay with that connection, and no other worker would get them."""
    register_branches(engine, BRANCH)
    publish_events(topology, failed(BRANCH, 0, FREEZING))
    worker = subprocess.run(
        [sys.executable, "-m", "tests.frozen_worker", "closing"],
        env=shell.environment(),
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert worker.returncode == exit_codes.UNREACHABLE
    assert "mirror-consumer: the broker has not confirmed for 1 s that" in worker.stderr


def test_nagios_hears_what_is_the_matter(shell: Shell, engine: Engine, topology: str) -> None:
    """Without a worker it is CRITICAL; with one OK; if the database cannot be asked, UNKNOWN."""
    nagios = ("mirror-consumer", "health", "--nagios")
    assert "CRITICAL - mirror.events.p0: no worker" in shell.run(*nagios, expect=2).stdout
    with shell.running("mirror-consumer", "run"):
        wait_for(lambda: not problems(shell), "a healthy worker")
        assert shell.run(*nagios).stdout == (
            "OK - 1 worker live and ready, 4 queues making progress"
            " | workers=1 queues=4 live=0 ready=0 progress=0\n"
        )
    away = ("--amqp-url", "amqp://guest:guest@127.0.0.1:1/%2F")
    assert "CRITICAL - the broker at 127.0.0.1:1" in shell.run(*nagios, *away, expect=2).stdout
    assert shell.run(*nagios, "--stalled-after", "5", expect=3).stdout.startswith("UNKNOWN - ")


def test_canaries_come_through_every_partition(shell: Shell, engine: Engine, topology: str) -> None:
    """One that does not is named, with what became of it."""
    canary = ("mirror-consumer", "canary")
    silent = shell.run(*canary, "--timeout", "1s", expect=1)
    assert silent.stderr.count("nothing arrived within 1s") == routing.DEFAULT_PARTITIONS
    with shell.running("mirror-consumer", "run"):
        flights = json.loads(shell.run(*canary, "--json").stdout)["partitions"]
        assert [each["queue"] for each in flights] == routing.partition_queues(4)
        assert all(0 < each["seconds"] < 30 for each in flights)
        assert shell.run(*canary, "--nagios").stdout.startswith("OK - all 4 partitions, within")
    with shell.running("mirror-consumer", "run", "--require-user", "puller"):
        refused = shell.run(*canary, "--timeout", "5s", expect=1)
        assert refused.stderr.count("it became a letter, invalid") == routing.DEFAULT_PARTITIONS
