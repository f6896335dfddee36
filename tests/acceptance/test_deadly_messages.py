"""Messages that kill the worker that touches them."""

import os
import signal
import subprocess
import sys

import pytest
from sqlalchemy import Engine

from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer.partitions.topology import declare_topology
from mirrorfeed.contract import environment, routing
from tests.builders import failed
from tests.deadly_worker import DEADLY
from tests.servers import branch, publish_events, register_branches, rows

DELIVERY_LIMIT = 3
DEADLY_ONES = (30, 31, 70)
BRANCH = 7


@pytest.mark.parametrize("where", ["apply", "decode"])
def test_a_message_that_kills_the_worker_takes_nothing_along(
    engine: Engine,
    amqp_url: str,
    database_url: str,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even with several close together, each becomes a letter and everything around them is
    applied."""
    monkeypatch.setattr("mirrorfeed.consumer.partitions.topology.DELIVERY_LIMIT", DELIVERY_LIMIT)
    with broker_channel(connection_parameters(amqp_url)) as channel:
        declare_topology(channel, routing.DEFAULT_PARTITIONS)
    register_branches(engine, BRANCH)
    history = [
        failed(BRANCH, second, DEADLY if second in DEADLY_ONES else "fine") for second in range(100)
    ]
    publish_events(amqp_url, *history)
    killed = 0
    while True:
        worker = subprocess.run(
            [sys.executable, "-m", "tests.deadly_worker", where, str(DELIVERY_LIMIT)],
            env={
                **os.environ,
                environment.AMQP_URL: amqp_url,
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
        assert killed <= (DELIVERY_LIMIT + 4) * len(DEADLY_ONES)
    assert branch(engine, BRANCH).mirror_failures == len(history) - len(DEADLY_ONES)
    found = rows(engine, "SELECT * FROM dead_letter")
    assert [row.reason for row in found] == ["delivery-limit"] * len(DEADLY_ONES)
    assert all(row.attempts > DELIVERY_LIMIT for row in found)
    assert all(DEADLY.encode() in bytes(row.body) for row in found)
