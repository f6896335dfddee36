"""From the spool to a real broker."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pika
import pytest

from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer.partitions.topology import declare_topology
from mirrorfeed.contract import routing, wire
from mirrorfeed.contract.events import Envelope
from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.forward.forwarder import Forwarder
from mirrorfeed.publisher.forward.session import PublishingSession
from mirrorfeed.publisher.kept import FOLDER, KeptEvents, kept_events
from mirrorfeed.publisher.spool import Spool
from mirrorfeed.publisher.spool_access import beside
from tests.servers import PATIENCE_SECONDS, take_all, wait_for

PULLER = """
import sys
from mirrorfeed import BranchStatusClient
client = BranchStatusClient(sys.argv[1], sys.argv[2])
client.start_mirroring(1)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def client(path: Path, topology: str) -> Iterator[BranchStatusClient]:
    with BranchStatusClient(path, topology) as client:
        yield client


def events_of(amqp_url: str, count: int) -> list[Envelope]:
    return [wire.decode(body) for _, body in take_all(amqp_url, count)]


def report_and_flush(client: BranchStatusClient, times: int) -> None:
    """One by one, so that each event is removed by itself."""
    for _ in range(times):
        client.start_mirroring(1)
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)


def test_a_message_has_the_contracts_properties(client: BranchStatusClient, topology: str) -> None:
    """What other services and the management page look at."""
    client.start_mirroring(1)
    ((properties, body),) = take_all(topology, 1)
    envelope = wire.decode(body)
    assert properties.content_type == "application/cloudevents+json"
    assert properties.delivery_mode == 2
    assert properties.message_id == envelope.id
    assert properties.type == "mirror.started"


def test_each_key_arrives_in_order_and_every_event_once(
    client: BranchStatusClient, topology: str
) -> None:
    """Hundreds of events of a few branches are pipelined at once."""
    for _ in range(50):
        for branch_id in (1, 2, 3):
            client.start_mirroring(branch_id)
            client.mirror_failed(branch_id, "why")
    events = events_of(topology, 300)
    assert client.flush(timeout_seconds=PATIENCE_SECONDS)
    assert sorted(event.sequence or 0 for event in events) == list(range(1, 301))
    for branch_id in (1, 2, 3):
        key = f"branch:{branch_id}"
        own = [event.sequence or 0 for event in events if event.partition_key == key]
        assert own == sorted(own)


def test_what_an_earlier_process_left_is_sent_without_a_call(path: Path, topology: str) -> None:
    """A quiet puller flushes what an outage left behind."""
    with BranchStatusClient(path, forward=False) as earlier:
        earlier.start_mirroring(1)
    with BranchStatusClient(path, topology):
        assert len(events_of(topology, 1)) == 1


def test_what_other_processes_append_is_sent(
    client: BranchStatusClient, path: Path, topology: str
) -> None:
    """One process forwards for all that share the spool."""
    with BranchStatusClient(path, forward=False) as other:
        other.start_mirroring(2)
    assert len(events_of(topology, 1)) == 1


def test_an_unroutable_event_stays_until_it_has_a_queue(
    client: BranchStatusClient, topology: str
) -> None:
    """The broker acks it but returns it first; events of other keys are sent meanwhile."""
    unbound, bound = "branch:1", "branch:2"
    partition = routing.slot_of(unbound) % routing.DEFAULT_PARTITIONS
    pattern = f"*.*.{routing.slot_of(unbound):02}"
    queue = routing.partition_queue(partition)
    with pika.BlockingConnection(pika.URLParameters(topology)) as connection:
        channel = connection.channel()
        channel.queue_unbind(queue, routing.EVENTS_EXCHANGE, pattern)
        client.start_mirroring(1)
        client.mirror_failed(1, "why")
        client.start_mirroring(2)
        assert [event.partition_key for event in events_of(topology, 1)] == [bound]
        assert client.status().pending >= 2
        channel.queue_bind(queue, routing.EVENTS_EXCHANGE, pattern)
    assert [event.sequence for event in events_of(topology, 2)] == [1, 2]
    assert client.flush(timeout_seconds=PATIENCE_SECONDS)


def test_what_is_put_back_does_not_wait_for_a_queue_that_is_missing(
    path: Path, topology: str
) -> None:
    """The events of another branch are sent again, though the first one's key is held for days."""
    pattern = f"*.*.{routing.slot_of('branch:1'):02}"
    with BranchStatusClient(path, forward=False) as client, closing(Spool(path)) as spool:
        client.start_mirroring(1)
        client.start_mirroring(2)
        _, sent = spool.pending(after=0, limit=2)
        with broker_channel(connection_parameters(topology)) as channel:
            for queue in routing.partition_queues(routing.DEFAULT_PARTITIONS):
                channel.queue_unbind(queue, routing.EVENTS_EXCHANGE, pattern)
        forwarder = Forwarder(path, topology)
        forwarder.wake()
        try:
            wait_for(lambda: spool.status().confirmed == 1, "the event of branch 2 to be removed")
            assert spool.put_back([sent]) == 1
            wait_for(lambda: spool.status().confirmed == 1, "it to be removed again")
        finally:
            forwarder.stop()
    assert [event.id for event in events_of(topology, 2)] == [sent.message_id] * 2


def test_a_broker_without_the_exchange_is_waited_for(
    path: Path,
    amqp_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is one outage, which says what to do; no event is blamed or set aside."""
    caplog.set_level("INFO", logger="mirrorfeed")
    tried: list[PublishingSession] = []
    run = PublishingSession.run

    def noted(session: PublishingSession) -> None:
        tried.append(session)
        run(session)

    monkeypatch.setattr(PublishingSession, "run", noted)
    with BranchStatusClient(path, amqp_url) as client:
        client.start_mirroring(1)
        client.mirror_failed(1, "why")
        wait_for(lambda: len(tried) > 2, "the forwarder to connect again and again")
        (line,) = [each for each in caplog.records if each.name.startswith("mirrorfeed")]
        assert line.getMessage() == "the broker is away; trying again"
        assert "no exchange 'mirror.events'" in line.__dict__["because"]
        assert "mirror-consumer init" in line.__dict__["because"]
        with broker_channel(connection_parameters(amqp_url)) as channel:
            declare_topology(channel, routing.DEFAULT_PARTITIONS)
        assert [event.sequence for event in events_of(amqp_url, 2)] == [1, 2]
        assert client.flush(timeout_seconds=PATIENCE_SECONDS)
        assert client.status().refused == 0


def test_a_broker_that_refuses_is_reached_all_the_same(
    path: Path, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`forward --drain` can tell a broker that takes nothing from one that is away, also while the
    next connection is being opened."""
    monkeypatch.setattr("random.Random.shuffle", lambda *_: None)
    with BranchStatusClient(path, forward=False) as client:
        client.start_mirroring(1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE_SECONDS)
        forwarder = Forwarder(path, f"{amqp_url},amqp://127.0.0.1:{silent.getsockname()[1]}")
        forwarder.wake()
        connection, _ = silent.accept()
        with connection:
            connection.settimeout(PATIENCE_SECONDS)
            assert connection.recv(4) == b"AMQP"  # it waits for an answer now
            assert forwarder.reaches_broker
            forwarder.stop()


def test_a_nacked_event_stays_until_there_is_room(
    client: BranchStatusClient, topology: str
) -> None:
    """It is sent again, in order, once the queue is no longer full."""
    with pika.BlockingConnection(pika.URLParameters(topology)) as connection:
        channel = connection.channel()
        channel.queue_declare(
            "full", arguments={"x-max-length": 0, "x-overflow": "reject-publish"}, exclusive=True
        )
        channel.queue_bind("full", routing.EVENTS_EXCHANGE, "#")
        client.start_mirroring(1)
        client.mirror_failed(1, "why")
        # The partition queue took it and the full one did not: the broker says no.
        assert events_of(topology, 1)[0].sequence == 1
        assert client.status().pending == 2
    assert client.flush(timeout_seconds=PATIENCE_SECONDS)
    sequences = [event.sequence for event in events_of(topology, 2)]
    assert sequences[-2:] == [1, 2]


def test_that_nothing_can_be_kept_is_said_once(
    client: BranchStatusClient,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And again only if it has worked meanwhile."""
    said = "confirmed events are not kept"
    in_the_way = beside(path, FOLDER)
    in_the_way.touch()
    report_and_flush(client, 3)
    assert caplog.text.count(said) == 1
    in_the_way.unlink()
    report_and_flush(client, 1)
    assert [kept.sequence for kept in kept_events(path)] == [4]
    monkeypatch.setattr(KeptEvents, "add", mock.Mock(side_effect=OSError("the disk is gone")))
    report_and_flush(client, 3)
    assert caplog.text.count(said) == 2


def test_the_spool_is_closed_even_if_kept_events_cannot_be(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of them may not fit on the disk."""
    closed: list[Path] = []
    monkeypatch.setattr(KeptEvents, "close", mock.Mock(side_effect=OSError("the disk is full")))
    with BranchStatusClient(path, forward=False) as client:
        client.start_mirroring(1)
    close = Spool.close

    def close_and_note(spool: Spool) -> None:
        close(spool)
        closed.append(spool.path)

    monkeypatch.setattr(Spool, "close", close_and_note)
    forwarder = Forwarder(path, "amqp://guest:guest@127.0.0.1:1/%2F")
    forwarder.wake()
    try:
        wait_for(lambda: path in closed, "the forwarder to close the spool")
    finally:
        forwarder.stop()


def test_a_process_that_ends_leaves_the_rest_to_the_next(path: Path, topology: str) -> None:
    """A puller never waits for the network, not even at its end."""
    for _ in range(3):
        subprocess.run(
            [sys.executable, "-c", PULLER, str(path), "amqp://127.0.0.1:1"],
            timeout=PATIENCE_SECONDS,
            check=True,
        )
    with BranchStatusClient(path, topology):
        assert [event.sequence for event in events_of(topology, 3)] == [1, 2, 3]


def test_another_process_takes_over_when_the_forwarder_ends(path: Path, topology: str) -> None:
    """When the forwarding process is killed, a waiting one continues."""
    command = [sys.executable, "-c", PULLER + "input()", str(path), topology]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as first:
        events_of(topology, 1)
        client = BranchStatusClient(path, topology)
        os.kill(first.pid, signal.SIGSTOP)
        client.start_mirroring(2)
        assert client.status().pending
        first.kill()
    events_of(topology, 1)
    client.close()


def test_a_forked_child_forwards_when_its_parent_has_ended(path: Path, topology: str) -> None:
    """Neither the parent's lock nor its connection is inherited."""
    story = (
        PULLER
        + """
import os
if os.fork():
    sys.exit()
sys.stdout.write("x")
sys.stdout.flush()
sys.stdin.read(1)
client.start_mirroring(2)
print(client.flush(timeout_seconds=60), end="")
"""
    )
    command = [sys.executable, "-c", story, str(path), topology]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.wait(PATIENCE_SECONDS) == 0
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.read(1) == b"x"
        parent.stdin.write(b"!")
        parent.stdin.close()
        keys = {event.partition_key for event in events_of(topology, 2)}
        assert keys == {"branch:1", "branch:2"}
        assert parent.stdout.read() == b"True"  # to its end: the child has ended too


def test_a_forwarder_needs_no_rights_but_to_publish(path: Path, amqp_url: str) -> None:
    """It declares nothing, and waits until somebody else has declared the exchange."""
    with BranchStatusClient(path, forward=False) as client:
        client.start_mirroring(1)
    forwarder = Forwarder(path, amqp_url)
    forwarder.wake()
    wait_for(lambda: forwarder.reaches_broker, "the forwarder to try")
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(routing.EVENTS_EXCHANGE, "topic", durable=True)
        channel.queue_declare("mirror.events.p0")
        channel.queue_bind("mirror.events.p0", routing.EVENTS_EXCHANGE, "#")
        assert len(take_all(amqp_url, 1, partitions=1)) == 1
    forwarder.stop()
