"""What somebody else has locked keeps nobody waiting but its own branch."""

import json
import os
import subprocess
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine

from mirrorfeed.contract.reasons import Reason
from tests.builders import at, completed, failed, script_run, started
from tests.commands import Shell
from tests.reference import BranchState
from tests.servers import (
    locked,
    publish_events,
    register_branches,
    rows,
    state_of,
    wait_for,
    wait_for_rows,
)

LOCKED, FREE, LAST = 1, 2, 3

LOCK_BRANCH = f"UPDATE branch SET url = 'x' WHERE id = {LOCKED}"
LOCK_ATTEMPT = f"UPDATE mirror_attempt SET revision_id = 'x' WHERE branch_id = {LOCKED}"
ADD_ATTEMPT = f"INSERT INTO mirror_attempt (branch_id, started_at) VALUES ({LOCKED}, '{at(10)}')"


class Log:
    """What a worker has logged so far."""

    def __init__(self, worker: "subprocess.Popen[str]") -> None:
        assert worker.stderr
        self._descriptor = worker.stderr.fileno()
        self._text = b""
        os.set_blocking(self._descriptor, False)

    def wait_for(self, event: str) -> list[dict[str, Any]]:
        """All lines with that event, once there is one."""
        found: list[dict[str, Any]] = []

        def has_come() -> bool:
            with suppress(BlockingIOError):
                self._text += os.read(self._descriptor, 65_536)
            lines = map(json.loads, self._text.split(b"\n")[:-1])
            found[:] = [line for line in lines if line["event"] == event]
            return bool(found)

        wait_for(has_come, event)
        return found


@pytest.mark.parametrize(
    ("statement", "start"),
    [(LOCK_BRANCH, 10), (LOCK_ATTEMPT, 0), (ADD_ATTEMPT, 10)],
    ids=["branch", "attempt", "new attempt"],
)
def test_only_the_branch_that_is_locked_waits(
    engine: Engine, topology: str, shell: Shell, statement: str, start: int
) -> None:
    """The others of its batch and of later ones are applied, and the log names who holds the
    lock."""
    register_branches(engine, LOCKED, FREE, LAST)
    publish_events(topology, completed(LOCKED, 0, "rev-0"))
    shell.run("mirror-consumer", "run", "--drain")
    with shell.running("mirror-consumer", "run", "--log-format", "json") as worker:
        log = Log(worker)
        with locked(engine, statement) as pid:
            publish_events(
                topology,
                failed(LOCKED, start, "first", end=12),
                failed(FREE, 10, "no route"),
                script_run("branch-puller", 10, 20),
            )
            wait_for(lambda: state_of(engine, FREE).mirror_failures == 1, "its batch")
            publish_events(topology, failed(LOCKED, 30, "second"), completed(LAST, 20, "rev-20"))
            wait_for(lambda: state_of(engine, LAST).last_mirrored == at(20), "a later batch")
            assert state_of(engine, LOCKED) == BranchState(at(0), at(0), "rev-0")
        wait_for(lambda: state_of(engine, LOCKED).mirror_failures == 2, "the one that waited")
        log.wait_for("no longer waiting for a lock")
        (line,) = log.wait_for("waiting for a lock")
    assert line["waiting"] == f"branch:{LOCKED}"
    assert f"pid {pid} " in line["locked_by"][0]
    assert rows(engine, "SELECT name FROM script_activity") == [("branch-puller",)]


def test_what_waits_for_a_lock_stays_in_its_queue(
    engine: Engine, topology: str, shell: Shell
) -> None:
    """A worker that ends gives it back, and the next one waits again and then applies it in
    order."""
    register_branches(engine, LOCKED, FREE)
    with locked(engine, LOCK_BRANCH):
        for revision in ("first", "second"):
            with shell.running("mirror-consumer", "run"):
                publish_events(topology, started(LOCKED, 10), failed(LOCKED, 10, "no"))
                publish_events(topology, completed(FREE, 10, revision, end=len(revision)))
                query = f"SELECT FROM branch WHERE last_mirrored_id = '{revision}'"
                wait_for_rows(engine, query, [()])
    shell.run("mirror-consumer", "run", "--drain")
    assert state_of(engine, LOCKED) == BranchState(
        at(10), mirror_failures=1, mirror_status_message="no"
    )
    assert rows(engine, "SELECT * FROM dead_letter") == rows(engine, "SELECT * FROM suspect") == []


def test_a_locked_letter_keeps_no_branch_waiting(
    engine: Engine, topology: str, shell: Shell
) -> None:
    """An operator may look at one for as long as he likes."""
    register_branches(engine, FREE)
    letter = started(LOCKED, 10)
    publish_events(topology, letter)
    shell.run("mirror-consumer", "run", "--drain")
    with shell.running("mirror-consumer", "run"):
        with locked(engine, "SELECT FROM dead_letter FOR UPDATE"):
            publish_events(topology, letter, started(FREE, 10))
            wait_for(lambda: state_of(engine, FREE).last_mirror_attempt == at(10), "a branch")
        wait_for_rows(
            engine, "SELECT reason, attempts FROM dead_letter", [(Reason.UNKNOWN_BRANCH, 2)]
        )


def test_a_locked_table_is_named(engine: Engine, topology: str, shell: Shell) -> None:
    """Then everything has to wait, and goes on when it may."""
    register_branches(engine, FREE)
    with shell.running("mirror-consumer", "run", "--log-format", "json") as worker:
        log = Log(worker)
        log.wait_for("consuming")
        with locked(engine, "LOCK TABLE branch") as pid:
            publish_events(topology, started(FREE, 10))
            (line,) = log.wait_for("the database is away; trying again")
            assert f"locked by pid {pid} " in line["because"]
        wait_for(lambda: state_of(engine, FREE).last_mirror_attempt == at(10), "the event")
        log.wait_for("the database is back")
