"""A quiet spool says that it is there, and how far it has counted."""

import json
import os
import time
from contextlib import closing
from pathlib import Path
from unittest import mock

import pika
import pytest
from sqlalchemy import Engine

from mirrorfeed.contract import environment, routing, wire
from mirrorfeed.contract.events import SpoolHeartbeat
from mirrorfeed.publisher.errors import SpoolFull
from mirrorfeed.publisher.forward.heartbeat import Heartbeats
from mirrorfeed.publisher.spool import Spool
from tests.commands import Shell
from tests.servers import register_branches, take_all

HOUR = 3600.0
DAY = 24 * HOUR


def make_quiet(path: Path, seconds: float = HOUR) -> None:
    """As if nothing had been written to the spool for so long."""
    written_at = time.time() - seconds
    for file in path.parent.glob(f"{path.name}*"):
        os.utime(file, (written_at, written_at))


def spool_of(shell: Shell) -> Path:
    return Path(shell.variables[environment.SPOOL])


def test_a_hole_at_the_end_is_named_with_the_next_heartbeat(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """Until then the audit cannot know of numbers that nobody has seen."""
    register_branches(engine, 1)
    shell.run("mirror-publisher", "failed", "1", "why")
    shell.run("mirror-publisher", "forward", "--drain")
    with pika.BlockingConnection(pika.URLParameters(topology)) as connection:
        for queue in routing.partition_queues(routing.DEFAULT_PARTITIONS):
            connection.channel().queue_purge(queue)
    shell.run("mirror-consumer", "audit")
    make_quiet(spool_of(shell))
    shell.run("mirror-publisher", "forward", "--drain")
    shell.run("mirror-consumer", "run", "--drain")
    (source,) = json.loads(shell.run("mirror-consumer", "audit", "--json", expect=1).stdout)[
        "sources"
    ]
    assert (source["highest"], source["missing"]) == (2, [[1, 1]])


def test_a_forwarder_sends_a_heartbeat_whenever_its_spool_was_quiet(
    shell: Shell, topology: str
) -> None:
    """With the account of its spool; each one ends the quiet."""
    shell.run("mirror-publisher", "failed", "1", "why")
    with shell.running("mirror-publisher", "forward", "--heartbeat-seconds", "0.5"):
        bodies = [body for _, body in take_all(topology, 3)]
    beats = sorted(
        (each for each in map(wire.decode, bodies) if isinstance(each.event, SpoolHeartbeat)),
        key=lambda each: each.time,
    )
    assert [each.sequence for each in beats] == [2, 3]
    assert [each.partition_key for each in beats] == [f"spool:{beats[0].source}"] * 2
    assert beats[0].time < beats[1].time
    event = beats[0].event
    assert isinstance(event, SpoolHeartbeat)
    assert event.refused == 0
    assert beats[0].source.split("/")[2] == event.hostname


@pytest.mark.parametrize(
    ("quiet_seconds", "interval_seconds", "beats"),
    [(HOUR + 1, HOUR, True), (HOUR - 60, HOUR, False), (-HOUR, HOUR, True), (9 * HOUR, 0, False)],
    ids=["quiet", "busy", "clock set back", "never"],
)
def test_only_a_quiet_spool_beats(
    tmp_path: Path, quiet_seconds: float, interval_seconds: float, beats: bool
) -> None:
    """A clock that was set back does not silence it; an interval of 0 does."""
    path = tmp_path / "spool.db"
    Spool(path).close()
    make_quiet(path, quiet_seconds)
    assert Heartbeats(path, interval_seconds).beat_if_quiet() == beats
    with closing(Spool(path)) as spool:
        assert spool.status().pending == int(beats)


def test_a_locked_spool_is_not_quiet(tmp_path: Path) -> None:
    """Somebody writes to it, and nobody waits for them."""
    path = tmp_path / "spool.db"
    with closing(Spool(path)) as spool:
        make_quiet(path)
        with spool.writing():
            make_quiet(path)
            assert not Heartbeats(path, HOUR).beat_if_quiet()


def test_a_file_from_the_future_makes_no_flood_of_heartbeats(tmp_path: Path) -> None:
    """The clock was set back. The log is written to, and the spool itself only later."""
    path = tmp_path / "spool.db"
    with closing(Spool(path)) as spool:
        make_quiet(path, -DAY)
        assert sum(Heartbeats(path, HOUR).beat_if_quiet() for _ in range(3)) == 1
        assert spool.status().pending == 1


def test_a_full_spool_is_tried_once_an_interval(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays quiet, and the log says only once why there is no heartbeat."""
    path = tmp_path / "spool.db"
    Spool(path).close()
    make_quiet(path)
    monkeypatch.setattr(Spool, "group_commit", mock.Mock(side_effect=SpoolFull("it is full")))
    heartbeats = Heartbeats(path, HOUR)
    assert not any(heartbeats.beat_if_quiet() for _ in range(3))
    assert caplog.messages == ["no heartbeat: it is full"]
