"""A publisher whose broker, or whose own process, dies."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Engine

from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope
from mirrorfeed.publisher import BranchStatusClient, SpoolFull
from sandbox import Server
from sandbox.ports import LOOPBACK
from tests.commands import Shell
from tests.faults.campaign.proxy import Proxy
from tests.servers import (
    MAX_MESSAGE_BYTES,
    PATIENCE_SECONDS,
    register_branches,
    take_all,
    wait_for,
    wait_for_rows,
)
from tests.spools import status_of

ENDLESS_PULLER = """
import sys
from mirrorfeed import BranchStatusClient
client = BranchStatusClient(sys.argv[1], sys.argv[2])
while True:
    for branch_id in range(1, 21):
        client.start_mirroring(branch_id)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


def drain(path: Path, amqp_url: str) -> None:
    with BranchStatusClient(path, amqp_url) as client:
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)


def has_spooled(path: Path, count: int) -> Callable[[], bool]:
    return lambda: status_of(path).spooled > count


def sequences_by_key(events: list[Envelope]) -> dict[str, list[int]]:
    by_key: dict[str, list[int]] = {}
    for event in events:
        by_key.setdefault(event.partition_key, []).append(event.sequence or 0)
    return by_key


def without_repetitions(sequences: list[int]) -> list[int]:
    return list(dict.fromkeys(sequences))


def received(amqp_url: str, spooled: int) -> list[Envelope]:
    """Takes messages until each of the spooled ones has come at least once."""
    events: list[Envelope] = []

    def take_more() -> bool:
        count = spooled - len({event.sequence for event in events})
        events.extend(wire.decode(body) for _, body in take_all(amqp_url, count))
        return len({event.sequence for event in events}) == spooled

    wait_for(take_more, "every spooled event")
    return events


def test_a_publisher_killed_at_any_moment_loses_nothing(path: Path, topology: str) -> None:
    """Each event arrives in order within its branch, at worst twice."""
    spooled = 0
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", ENDLESS_PULLER, str(path), topology]
        ) as puller:
            wait_for(path.exists, "a spool")
            wait_for(has_spooled(path, spooled + 100), "more events")
            puller.kill()
        spooled = status_of(path).spooled
    drain(path, topology)
    events = received(topology, spooled)
    assert {event.sequence for event in events} == set(range(1, spooled + 1))
    for sequences in sequences_by_key(events).values():
        first_arrivals = without_repetitions(sequences)
        assert first_arrivals == sorted(first_arrivals)


def test_a_restart_of_the_broker_loses_nothing(path: Path, topology: str, broker: Server) -> None:
    """Calls go on as if nothing had happened; what was not confirmed is sent again."""
    client = BranchStatusClient(path, topology)
    calls = 0

    def call(times: int) -> None:
        nonlocal calls
        for _ in range(times):
            client.start_mirroring(calls % 20 + 1)
            calls += 1

    call(200)
    broker.kill()
    call(200)
    broker.start()
    call(200)
    assert client.flush(timeout_seconds=PATIENCE_SECONDS)
    client.close()
    events = received(topology, calls)
    assert {event.sequence for event in events} == set(range(1, calls + 1))


def test_a_flush_waits_for_a_broker_that_comes_back(
    path: Path, topology: str, broker: Server
) -> None:
    """It returns False while the broker is away, and True once the broker has everything."""
    with BranchStatusClient(path, topology) as client:
        client.start_mirroring(1)
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        broker.kill()
        client.mirror_failed(1, "why")
        assert not client.flush(timeout_seconds=1)
        broker.start()
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        assert [event.sequence for event in received(topology, 2)] == [1, 2]


def test_a_flush_says_no_once_all_but_the_refused_are_sent(path: Path, topology: str) -> None:
    """It does not wait for what the broker will never take."""
    with BranchStatusClient(path, topology) as client:
        client.mirror_failed(1, "x" * MAX_MESSAGE_BYTES)
        client.mirror_failed(2, "why")
        began_at = time.monotonic()
        assert not client.flush(timeout_seconds=PATIENCE_SECONDS)
        assert time.monotonic() - began_at < PATIENCE_SECONDS
        status = client.status()
        assert (status.confirmed, status.pending, status.refused) == (1, 0, 1)


def test_an_outage_at_start_up_is_sat_out(
    shell: Shell, engine: Engine, topology: str, broker: Server, database: Server
) -> None:
    """Puller, forwarder and worker may all start before both servers do."""
    register_branches(engine, 1)
    engine.dispose()
    broker.terminate()
    database.terminate()
    with (
        shell.running("mirror-publisher", "forward"),
        shell.running("mirror-consumer", "run"),
    ):
        shell.run("mirror-publisher", "failed", "1", "no route to host")
        database.start()
        broker.start()
        wait_for_rows(engine, "SELECT mirror_failures FROM branch", [(1,)])


def test_what_the_broker_never_takes_is_set_aside(
    shell: Shell, topology: str, tmp_path: Path
) -> None:
    """It is listed, blocks nobody, and can be tried again."""
    path = tmp_path / "spool.db"
    client = BranchStatusClient(path, forward=False)
    for branch_id in range(1, 31):
        client.mirror_failed(branch_id, "x" * (MAX_MESSAGE_BYTES if branch_id == 15 else 10))
    client.mirror_failed(15, "short enough")
    client.close()
    log = shell.run("mirror-publisher", "forward", "--drain").stderr
    assert "set aside event 15" in log
    events = received(topology, 30)
    assert {event.sequence for event in events} == set(range(1, 32)) - {15}
    assert '"refused": 1' in shell.run("mirror-publisher", "status", "--json").stdout
    shell.run("mirror-publisher", "forward", "--drain", "--retry-refused")
    assert '"refused": 1' in shell.run("mirror-publisher", "status", "--json").stdout


def fail_for_ever(client: BranchStatusClient) -> None:
    for number in count():
        client.mirror_failed(1 + number % 50, "x" * 1000)


def test_a_full_disk_refuses_calls_and_still_drains(small_disk: Path, topology: str) -> None:
    """What was taken before is sent, and then there is room again."""
    path = small_disk / "spool.db"
    client = BranchStatusClient(path, forward=False)
    with pytest.raises(SpoolFull, match=r"the disk under the spool .* is full: free at least"):
        fail_for_ever(client)
    client.close()
    taken = status_of(path).spooled
    drain(path, topology)
    assert len(received(topology, taken)) >= taken
    again = BranchStatusClient(path, forward=False)
    again.start_mirroring(1)
    again.close()


def test_a_disk_filled_by_others_does_not_stop_the_forwarder(
    small_disk: Path, topology: str
) -> None:
    """It sends what is there, and removes it from the spool once there is room to do so."""
    path = small_disk / "spool.db"
    waiting = BranchStatusClient(path, forward=False)
    for branch_id in range(1, 51):
        waiting.start_mirroring(branch_id)
    url = urlsplit(topology)
    with closing(Proxy(url.port or 0)) as proxy:
        proxy.cut()
        client = BranchStatusClient(path, url._replace(netloc=f"{LOOPBACK}:{proxy.port}").geturl())
        ballast = small_disk / "ballast"
        fill(ballast)
        with pytest.raises(SpoolFull):
            waiting.start_mirroring(1)
        proxy.heal()
        received(topology, 50)
        ballast.unlink()
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        client.close()
    waiting.close()


def fill(file: Path) -> None:
    """Takes every byte of a disk."""
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(b"x" * 4096)
