"""Health is progress: what stands still is named, although somebody is there."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pika
import pytest
from sqlalchemy import Engine

from mirrorfeed.amqp.connections import Addresses
from mirrorfeed.consumer.apply.message import Limits
from mirrorfeed.consumer.worker import service
from mirrorfeed.consumer.worker.settings import Settings
from mirrorfeed.contract import routing
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


def wait_for_problem(shell: Shell, subject: str, because: str) -> None:
    wait_for(lambda: because in problems(shell).get(subject, ""), because)


def test_a_worker_that_progresses_is_well(shell: Shell, engine: Engine, topology: str) -> None:
    """However long nothing has come."""
    register_branches(engine, BRANCH)
    with shell.running("mirror-consumer", "run"):
        publish_events(topology, completed(BRANCH, 0, "rev-1"))
        wait_for(lambda: state_of(engine, BRANCH).last_mirrored_id == "rev-1", "the event")
        wait_for(lambda: not problems(shell), "a healthy worker")
        (worker,) = health(shell)["workers"]
        assert worker["report"]["settled"][QUEUE] == 1


def test_an_applier_that_hangs_is_named_although_its_worker_is_heard(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """The other threads go on."""
    register_branches(engine, BRANCH)
    command = [sys.executable, "-m", "tests.frozen_worker"]
    worker = subprocess.Popen(command, env=shell.environment(), stderr=subprocess.DEVNULL)
    try:
        publish_events(topology, failed(BRANCH, 0, FREEZING))
        wait_for_problem(shell, QUEUE, "has had one batch in hand for")
    finally:
        worker.kill()
        worker.wait()


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
