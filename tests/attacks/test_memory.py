"""What a puller can do with large messages: little more than have them kept."""

import os
import signal
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace
from pika.exceptions import ChannelClosedByBroker
from sqlalchemy import Engine, text

from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.amqp.limits import takes_message
from mirrorfeed.consumer.partitions.topology import declare_topology
from mirrorfeed.consumer.worker.in_hand import MAX_IN_HAND_BYTES
from mirrorfeed.contract import environment, routing
from mirrorfeed.contract.wire import MAX_READABLE_BYTES
from sandbox import PrivateRabbitMQ
from tests.builders import failed, started
from tests.commands import Shell
from tests.servers import (
    delete_topology,
    locked,
    publish,
    publish_events,
    register_branches,
    rows,
    wait_for,
    wait_for_rows,
)

MB = 1_000_000
LARGE = 32 * MB
IDLE_BYTES = 90 * MB
"""More than a worker takes without any message."""
SAME_PARTITION = next(
    branch_id
    for branch_id in range(1, 1000)
    if routing.slot_of(f"branch:{branch_id}") % routing.DEFAULT_PARTITIONS == 0
)
"""A branch whose events come behind what `publish` sends."""
BEHIND = f"SELECT count(*) FROM mirror_attempt WHERE branch_id = {SAME_PARTITION}"


@pytest.fixture(scope="module")
def lax_broker() -> Iterator[PrivateRabbitMQ]:
    """A broker that takes much larger messages than it should."""
    with PrivateRabbitMQ({"max_message_size": str(4 * LARGE)}) as broker:
        yield broker


@pytest.fixture
def lax(lax_broker: PrivateRabbitMQ, database_url: str) -> Iterator[Shell]:
    """A shell that uses it, set up."""
    with broker_channel(connection_parameters(lax_broker.url)) as channel:
        declare_topology(channel, routing.DEFAULT_PARTITIONS)
    yield Shell({environment.AMQP_URL: lax_broker.url, environment.DATABASE_URL: database_url})
    delete_topology(lax_broker.url)


def test_a_broker_that_takes_large_messages_is_told(
    lax: Shell, lax_broker: PrivateRabbitMQ, engine: Engine
) -> None:
    """By `init` and `health`, to whoever has the least rights, and without keeping anything."""
    lax_broker.control("add_user", "nobody", typed="nobody-pw\n")
    lax_broker.control("set_permissions", "nobody", "^$", "^$", r"^mirror\..*$")
    nobody = lax_broker.url.replace("guest:guest", "nobody:nobody-pw")
    advice = f"set max_message_size = {MAX_READABLE_BYTES} in its rabbitmq.conf"
    assert advice in lax.run("mirror-consumer", "init").stderr
    with lax.running("mirror-consumer", "run"):
        wait_for_rows(engine, "SELECT cardinality(queues) FROM worker", [(4,)])
        health = ("mirror-consumer", "health", "--amqp-url", nobody)
        assert advice in lax.run(*health).stderr
        assert lax.run(*health, "--quiet").stderr == ""


def test_a_broker_that_is_short_of_memory_gets_no_advice(lax_broker: PrivateRabbitMQ) -> None:
    """It takes no message then, and nobody waits for it."""
    addresses = connection_parameters(lax_broker.url)
    lax_broker.control("set_vm_memory_high_watermark", "0.00001")
    assert takes_message(addresses, 1) is None
    lax_broker.control("set_vm_memory_high_watermark", "0.4")
    wait_for(lambda: takes_message(addresses, 1) is True, "the alarm to end")


@pytest.mark.skipif(environment.AMQP_URL in os.environ, reason="a given broker may be lax")
def test_a_broker_set_up_as_advised_gets_no_advice(shell: Shell, amqp_url: str) -> None:
    """What is beyond the limit is refused, and what is within it is not."""
    assert shell.run("mirror-consumer", "init").stderr == ""
    with pytest.raises(ChannelClosedByBroker, match="larger than configured max size"):
        publish(amqp_url, bytes(MAX_READABLE_BYTES + 1))
    publish(amqp_url, bytes(MAX_READABLE_BYTES))


def peak_bytes(pid: int) -> int:
    """The most memory that the process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def wait_for_letters(engine: Engine, *bodies: bytes) -> None:
    """Waits until exactly these are letters, whole."""
    digests = sorted((sha256(body).hexdigest(),) for body in bodies)
    query = "SELECT encode(sha256(body), 'hex') AS digest FROM dead_letter ORDER BY digest"
    wait_for_rows(engine, query, list(digests))


def test_a_large_message_is_in_memory_once(lax: Shell, engine: Engine) -> None:
    """It becomes a letter, whole, and what comes behind it is applied."""
    register_branches(engine, SAME_PARTITION)
    body = bytes(LARGE)
    with lax.running("mirror-consumer", "run") as worker:
        publish(lax.variables[environment.AMQP_URL], body)
        publish_events(lax.variables[environment.AMQP_URL], started(SAME_PARTITION, 0))
        wait_for_letters(engine, body)
        wait_for_rows(engine, BEHIND, [(1,)])
        assert peak_bytes(worker.pid) < IDLE_BYTES + 2 * LARGE


def test_many_large_messages_take_turns(lax: Shell, engine: Engine) -> None:
    """However many come, even while none can be kept, the worker holds no more than it may."""
    bodies = [b"%d" % number + bytes(LARGE // 2) for number in range(14)]
    with engine.connect() as blocker:
        blocker.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        blocker.execute(text("LOCK TABLE dead_letter IN SHARE MODE"))
        with lax.running("mirror-consumer", "run") as worker:
            publish(lax.variables[environment.AMQP_URL], *bodies)
            wait_for(lambda: peak_bytes(worker.pid) > MAX_IN_HAND_BYTES, "it to take what it may")
            blocker.rollback()
            wait_for_letters(engine, *bodies)
            assert peak_bytes(worker.pid) < IDLE_BYTES + MAX_IN_HAND_BYTES + LARGE // 2


def test_events_count_with_what_they_take_once_decoded(shell: Shell, engine: Engine) -> None:
    """One character beyond U+FFFF makes all of a string take four bytes each."""
    register_branches(engine, *range(1, 101))
    source = "/" + "a" * 60_000 + "\N{COLLISION SYMBOL}"
    events = [replace(failed(1 + each % 100, each, "x"), source=source) for each in range(1500)]
    with shell.running("mirror-consumer", "run") as worker:
        wait_for_rows(engine, "SELECT cardinality(queues) FROM worker", [(4,)])
        with locked(engine, "LOCK TABLE mirror_attempt"):
            publish_events(shell.variables[environment.AMQP_URL], *events)
            wait_for(lambda: peak_bytes(worker.pid) > MAX_IN_HAND_BYTES, "it to take what it may")
        wait_for_rows(engine, "SELECT count(*) FROM mirror_attempt", [(len(events),)])
        assert peak_bytes(worker.pid) < IDLE_BYTES + 2 * MAX_IN_HAND_BYTES


def test_a_large_message_holds_up_nobody_and_is_acked_alone(lax: Shell, engine: Engine) -> None:
    """While it cannot be kept, what comes behind it is applied, and acked: a worker that dies then
    leaves the large message behind, and nothing else."""
    register_branches(engine, SAME_PARTITION)
    amqp_url = lax.variables[environment.AMQP_URL]
    body = bytes(2 * MB)
    with engine.connect() as blocker:
        blocker.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        blocker.execute(text("LOCK TABLE dead_letter IN SHARE MODE"))
        worker = lax.start("mirror-consumer", "run")
        publish(amqp_url, body)
        publish_events(amqp_url, *(started(SAME_PARTITION, second) for second in range(5)))
        wait_for_rows(engine, BEHIND, [(5,)])
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        blocker.rollback()
    lax.run("mirror-consumer", "run", "--drain")
    wait_for_letters(engine, body)
    assert rows(engine, "SELECT attempts FROM dead_letter") == [(2,)]
    assert rows(engine, BEHIND) == [(5,)]
