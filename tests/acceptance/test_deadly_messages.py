"""Messages that kill the worker that touches them."""

import os
import signal
import subprocess
import sys

import pytest
from sqlalchemy import Engine

from mirrorfeed.consumer.apply.suspects import MAX_TRIALS
from mirrorfeed.contract import environment
from tests.builders import failed
from tests.deadly_worker import DEADLY
from tests.servers import branch, publish_events, register_branches, rows

DEADLY_ONES = (30, 31, 70)
BRANCH = 7


@pytest.mark.parametrize("where", ["apply", "decode"])
def test_a_message_that_kills_the_worker_takes_nothing_along(
    engine: Engine, topology: str, database_url: str, where: str
) -> None:
    """Even with several close together, each becomes a letter and everything around them is
    applied."""
    register_branches(engine, BRANCH)
    history = [
        failed(BRANCH, second, DEADLY if second in DEADLY_ONES else "fine") for second in range(100)
    ]
    publish_events(topology, *history)
    killed = 0
    while True:
        worker = subprocess.run(
            [sys.executable, "-m", "tests.deadly_worker", where],
            env={
                **os.environ,
                environment.AMQP_URL: topology,
                environment.DATABASE_URL: database_url,
            },
            capture_output=True,
            timeout=60,
            check=False,
        )
        if worker.returncode == 0:
            break
        assert worker.returncode == -signal.SIGKILL, worker.stderr
        killed += 1
        assert killed <= 1 + MAX_TRIALS * len(DEADLY_ONES)
    assert branch(engine, BRANCH).mirror_failures == len(history) - len(DEADLY_ONES)
    found = rows(engine, "SELECT * FROM dead_letter")
    assert [row.reason for row in found] == ["delivery-limit"] * len(DEADLY_ONES)
    assert [row.attempts for row in found] == [MAX_TRIALS + 1] * len(DEADLY_ONES)
    assert rows(engine, "SELECT * FROM suspect") == []
    assert all(DEADLY.encode() in bytes(row.body) for row in found)
