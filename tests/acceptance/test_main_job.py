"""From a puller's call to the branch table, with the commands as users type them."""

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from mirrorfeed.consumer import Branch, get_last_activity
from mirrorfeed.contract import environment
from mirrorfeed.publisher import BranchStatusClient
from tests.builders import at, completed, failed, script_run, started
from tests.commands import Shell
from tests.servers import (
    PATIENCE_SECONDS,
    branch,
    publish_events,
    register_branches,
    rows,
    wait_for,
    wait_for_rows,
)


def statuses(shell: Shell, *arguments: str) -> list[dict[str, Any]]:
    result = shell.run("mirror-consumer", "status", "--json", *arguments)
    branches = json.loads(result.stdout)["branches"]
    assert isinstance(branches, list)
    return branches


def account(shell: Shell) -> dict[str, Any]:
    status = json.loads(shell.run("mirror-publisher", "status", "--json").stdout)
    assert isinstance(status, dict)
    return status


def test_a_mirror_run_becomes_a_branch_row(shell: Shell) -> None:
    """Four commands carry it there, each of which ends by itself."""
    shell.run("mirror-consumer", "branches", "add", "1", "~jane/project/main")
    shell.run(
        "mirror-publisher", "run", "--branch", "1", "--revision-command", "echo rev-1", "--", "true"
    )
    shell.run("mirror-publisher", "forward", "--drain")
    shell.run("mirror-consumer", "run", "--drain")
    (row,) = statuses(shell)
    assert row["state"] == "mirrored"
    assert row["last_mirrored_id"] == "rev-1"
    assert row["last_mirrored"] == row["last_mirror_attempt"]
    assert row["mirror_failures"] == 0
    assert row["mirror_status_message"] is None


def test_the_services_carry_events_as_they_come(shell: Shell, engine: Engine) -> None:
    """The forwarder and the worker run until SIGTERM, then exit with 0."""
    register_branches(engine, 1)
    with (
        shell.running("mirror-publisher", "forward"),
        shell.running("mirror-consumer", "run"),
    ):
        shell.run("mirror-publisher", "started", "1")
        shell.run("mirror-publisher", "failed", "1", "no route to host")
        wait_for_rows(
            engine,
            "SELECT mirror_failures, mirror_status_message FROM branch",
            [(1, "no route to host")],
        )
    status = account(shell)
    assert status["spooled"] == status["confirmed"] == 2
    assert status["pending"] == 0
    assert status["oldest_pending_seconds"] is None


def test_the_original_document_comes_true(shell: Shell, engine: Engine, tmp_path: Path) -> None:
    """The original story holds: start, complete, fail, recover, and a script's run."""
    register_branches(engine, 1)
    client = BranchStatusClient(tmp_path / "own.db", shell.variables[environment.AMQP_URL])

    def reported() -> Branch:
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        shell.run("mirror-consumer", "run", "--drain")
        with Session(engine) as session:
            return session.get_one(Branch, 1)

    untouched = branch(engine, 1)
    assert untouched.last_mirror_attempt is None
    assert untouched.last_mirrored is None
    assert untouched.mirror_failures == 0
    client.startMirroring(1)
    begun = reported()
    assert begun.last_mirror_attempt is not None
    assert begun.last_mirrored is None
    client.mirrorComplete(1, "rev-1")
    mirrored = reported()
    assert mirrored.last_mirrored == mirrored.last_mirror_attempt == begun.last_mirror_attempt
    assert mirrored.last_mirrored_id == "rev-1"
    client.startMirroring(1)
    client.mirrorFailed(1, "failure reason")
    failing = reported()
    assert failing.mirror_failures == 1
    assert failing.last_mirrored == mirrored.last_mirrored
    assert failing.mirror_status_message == "failure reason"
    client.startMirroring(1)
    client.mirrorComplete(1, "rev-2")
    recovered = reported()
    assert recovered.mirror_failures == 0
    assert recovered.mirror_status_message is None
    script_started = datetime(2007, 7, 5, 19, 32, 1, tzinfo=UTC)
    script_completed = datetime(2007, 7, 5, 19, 34, 24, tzinfo=UTC)
    client.recordSuccess("test-recordsuccess", "vostok", script_started, script_completed)
    reported()
    client.close()
    with Session(engine) as session:
        activity = get_last_activity(session, "test-recordsuccess")
        assert activity is not None
        assert activity.hostname == "vostok"
        assert activity.date_started == script_started
        assert activity.date_completed == script_completed
        assert get_last_activity(session, "never-run") is None


def test_the_last_activity_is_the_one_that_started_last(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """Neither the host nor the order of the reports matters."""
    publish_events(
        topology,
        script_run("gc", 100, 110, hostname="mir"),
        script_run("gc", 0, 200, hostname="vostok"),
        script_run("other", 300, 310),
    )
    shell.run("mirror-consumer", "run", "--drain")
    with Session(engine) as session:
        activity = get_last_activity(session, "gc")
        assert activity is not None
        assert activity.hostname == "mir"


def test_each_branch_has_the_state_of_its_latest_attempt(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """It is never-mirrored, mirroring, stuck, mirrored or failing."""
    register_branches(engine, 1, 2, 3, 4, 5)
    now = (datetime.now(UTC) - at(0)).total_seconds()
    publish_events(
        topology,
        started(2, now),
        started(3, now - timedelta(hours=2).total_seconds()),
        completed(4, 0, "rev-1"),
        failed(5, 0, "why"),
    )
    shell.run("mirror-consumer", "run", "--drain")
    states = {row["id"]: row["state"] for row in statuses(shell)}
    assert states == {
        1: "never-mirrored", 2: "mirroring", 3: "stuck", 4: "mirrored", 5: "failing"
    }  # fmt: skip
    patient = {row["id"]: row["state"] for row in statuses(shell, "--stuck-after-seconds", "10000")}
    assert patient[3] == "mirroring"


def test_status_shows_one_branch_or_says_that_there_is_none(shell: Shell) -> None:
    """The exit code is 1 if the branch is not registered."""
    shell.run("mirror-consumer", "branches", "add", "7", "seven", "--url", "https://host/seven")
    shell.run("mirror-consumer", "branches", "add", "8", "eight")
    (row,) = statuses(shell, "7")
    assert list(row) == [
        "id", "unique_name", "url", "last_mirror_attempt", "last_mirrored", "last_mirrored_id",
        "mirror_failures", "mirror_status_message", "state", "hostname", "last_success_age_seconds",
    ]  # fmt: skip
    assert row["url"] == "https://host/seven"
    assert "seven" in shell.run("mirror-consumer", "status", "7").stdout
    result = shell.run("mirror-consumer", "status", "9", "--json", expect=1)
    assert json.loads(result.stdout) == {"branches": []}
    assert "branch 9 is not registered" in result.stderr


def test_init_can_be_repeated(shell: Shell, topology: str) -> None:
    """Several hosts may even run it at the same time."""
    processes = [shell.start("mirror-consumer", "init") for _ in range(3)]
    for process in processes:
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0, log


def test_health_tells_whether_every_partition_has_a_worker(shell: Shell) -> None:
    """It exits with 1 and lists those that have none, else with 0."""
    result = shell.run("mirror-consumer", "health", expect=1)
    assert "mirror.events.p1: no worker consumes it: start mirror-consumer run" in result.stderr

    def is_healthy() -> bool:
        process = shell.start("mirror-consumer", "health")
        process.communicate()
        return process.returncode == 0

    with shell.running("mirror-consumer", "run"):
        wait_for(is_healthy, "a healthy worker")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (("run", "--share", "3/2"), 2, "--share '3/2' is not I/N"),
        (("run", "--partitions", "65"), 2, "1<=x<=64"),
        (("run", "--amqp-url", "amqp://jane:s3cret@host:x"), 2, "the AMQP URL cannot be read"),
        (
            ("status", "--database-url", "mysql://jane:s3cret@host/x"),
            2,
            "the database URL cannot be read",
        ),
        (("branches", "add", "0", "zero"), 2, "branch_id must be a whole number from 1"),
        (("status", "--database-url", "postgresql://127.0.0.1:1/x"), 3, "refused"),
        (("status", str(2**63)), 2, "branch_id must be a whole number from 1"),
        (("branches", "add", "1", "".join(map(chr, range(0x4E00, 0x5600)))), 2, "index row size"),
        (("init", "--database-url", "postgresql://127.0.0.1:1/x"), 3, "refused"),
        (("init", "--amqp-url", "amqp://127.0.0.1:1"), 3, "the broker at 127.0.0.1:1 cannot be"),
        (("health", "--amqp-url", "amqp://127.0.0.1:1"), 3, "the broker at 127.0.0.1:1 cannot be"),
    ],
)
def test_bad_usage_exits_2_and_a_missing_server_3(
    shell: Shell, arguments: tuple[str, ...], exit_code: int, says: str
) -> None:
    """The message names value and remedy, without a traceback or a password."""
    result = shell.run("mirror-consumer", *arguments, expect=exit_code)
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert "s3cret" not in result.stderr


def test_a_database_without_tables_is_told_apart(shell: Shell, engine: Engine) -> None:
    """The remedy differs from the one for a database that is away."""
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE mirror_attempt")
    result = shell.run("mirror-consumer", "run", "--drain", expect=2)
    assert "run mirror-consumer init" in result.stderr


def test_two_workers_share_and_take_over(shell: Shell, engine: Engine, topology: str) -> None:
    """When one ends, the other goes on with its share."""
    register_branches(engine, *range(1, 41))
    first = shell.start("mirror-consumer", "run", "--share", "1/2")
    with shell.running("mirror-consumer", "run", "--share", "2/2"):
        publish_events(topology, *(failed(number, 0, "x") for number in range(1, 41)))
        wait_for_rows(engine, "SELECT count(*) FROM mirror_attempt", [(40,)])
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=10)
        publish_events(topology, *(failed(number, 1, "x") for number in range(1, 41)))
        wait_for_rows(engine, "SELECT count(*) FROM mirror_attempt", [(80,)])
    assert rows(engine, "SELECT DISTINCT mirror_failures FROM branch") == [(2,)]


def test_drains_that_share_the_queues_all_end(shell: Shell, engine: Engine, topology: str) -> None:
    """Each gives queues back while it asks whether they are empty."""
    branches = range(1, 41)
    register_branches(engine, *branches)
    publish_events(topology, *(failed(branch, n, "x") for n in range(5) for branch in branches))
    drains = [shell.start("mirror-consumer", "run", "--drain") for _ in range(3)]
    for drain in drains:
        _, log = drain.communicate(timeout=PATIENCE_SECONDS)
        assert drain.returncode == 0, log
    assert rows(engine, "SELECT sum(mirror_failures) FROM branch") == [(5 * len(branches),)]
