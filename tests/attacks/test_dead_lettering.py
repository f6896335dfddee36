"""What a puller can do with the broker's dead-lettering: nothing."""

import json
from collections.abc import Iterator
from typing import Any

import pika
import pytest
from sqlalchemy import Engine, text

from mirrorfeed.amqp.connections import broker_channel, connection_parameters, message_count
from mirrorfeed.consumer.apply.suspects import MAX_TRIALS
from mirrorfeed.consumer.partitions.topology import declare_topology, queue_arguments
from mirrorfeed.contract import environment, routing
from sandbox import PrivateRabbitMQ
from tests.builders import bodies, envelope, failed, started
from tests.commands import Shell
from tests.servers import (
    publish_events,
    register_branches,
    rows,
    wait_for,
    wait_for_rows,
)

QUEUES = routing.partition_queues(routing.DEFAULT_PARTITIONS)
FORGED: list[Any] = [
    [1],
    "nonsense",
    [{"queue": "mirror.dead", "reason": "expired", "count": 9, "exchange": "", "routing-keys": []}],
    [{"queue": "mirror.events.p0", "reason": "delivery_limit", "count": "x"}],
]
"""What a publisher may put into the header `x-death`."""


def attack(amqp_url: str, *forged: Any) -> None:
    """Sends messages to every partition that the broker must dead-letter at once."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for slot in range(routing.DEFAULT_PARTITIONS):
            for header in forged:
                channel.basic_publish(
                    routing.EVENTS_EXCHANGE,
                    f"mirror.started.{slot:02}",
                    b"attack",
                    pika.BasicProperties(
                        delivery_mode=2, expiration="0", headers={"x-death": header}
                    ),
                )


def publish_expired(amqp_url: str, *events: Any, **properties: Any) -> None:
    """Publishes events that no worker may ever see in their queue."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for event, body in zip(events, bodies(events), strict=True):
            channel.basic_publish(
                routing.EVENTS_EXCHANGE,
                routing.routing_key(event.event.TYPE, event.partition_key),
                body,
                pika.BasicProperties(delivery_mode=2, expiration="0", **properties),
            )


@pytest.fixture
def mortal(database_url: str) -> Iterator[tuple[PrivateRabbitMQ, Shell]]:
    """A broker that may be restarted, with its queues, and a shell that uses it."""
    with PrivateRabbitMQ() as broker:
        with broker_channel(connection_parameters(broker.url)) as channel:
            declare_topology(channel, routing.DEFAULT_PARTITIONS)
        yield (
            broker,
            Shell({environment.AMQP_URL: broker.url, environment.DATABASE_URL: database_url}),
        )


def test_forged_deaths_stop_no_queue(mortal: tuple[PrivateRabbitMQ, Shell], engine: Engine) -> None:
    """Honest events are applied before and after a restart of the broker, and all queues come
    back; a move to other partitions goes through as well."""
    broker, shell = mortal
    register_branches(engine, *range(1, 21))
    attack(broker.url, *FORGED * 15)
    publish_events(broker.url, *(started(branch_id, 0) for branch_id in range(1, 21)))
    shell.run("mirror-consumer", "run", "--drain")
    assert rows(engine, "SELECT count(*) FROM mirror_attempt") == [(20,)]

    attack(broker.url, *FORGED * 15)
    publish_events(broker.url, *(failed(branch_id, 0, "why") for branch_id in range(1, 21)))
    broker.terminate()
    broker.start()
    with broker_channel(connection_parameters(broker.url)) as channel:
        # A quorum queue elects its leader in the first moments after a start.
        wait_for(lambda: all(is_there(channel, queue) for queue in QUEUES), "all queues")
    with shell.running("mirror-consumer", "run"):
        wait_for_rows(engine, "SELECT count(*) FROM branch WHERE mirror_failures = 1", [(20,)])
        shell.run("mirror-consumer", "topology", "--partitions", "2")
    assert rows(engine, "SELECT DISTINCT reason FROM dead_letter") in ([], [("malformed",)])


def is_there(channel: Any, queue: str) -> bool:
    return message_count(channel, queue) >= 0


def test_what_only_expired_is_applied(shell: Shell, engine: Engine, topology: str) -> None:
    """A publisher's expiration, or an operator's `message-ttl`, makes no letters of events. A
    broker that cannot dead-letter safely drops them, and the audit names them."""
    register_branches(engine, 1)
    expired = envelope(failed(1, 0, "why").event, sequence=1)
    publish_expired(topology, expired)
    if has_net(topology):
        wait_for_dead(topology, 1)
    publish_events(topology, envelope(failed(1, 10, "why").event, sequence=2))
    shell.run("mirror-consumer", "run", "--drain")
    assert rows(engine, "SELECT mirror_failures FROM branch") == [(1 + has_net(topology),)]
    assert rows(engine, "SELECT count(*) FROM dead_letter") == [(0,)]
    audit = shell.run("mirror-consumer", "audit", "--json", expect=int(not has_net(topology)))
    assert json.loads(audit.stdout)["missing_total"] == int(not has_net(topology))


def test_the_dead_queue_is_no_way_around_require_user(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """Another user's event is not applied, and its number does not count as arrived, whichever
    queue it comes from."""
    register_branches(engine, 1)
    (body,) = bodies([envelope(started(1, 0).event, sequence=1)])
    with broker_channel(connection_parameters(topology)) as channel:
        channel.confirm_delivery()
        channel.basic_publish(routing.DEAD_EXCHANGE, "", body, mandatory=True)
    shell.run("mirror-consumer", "run", "--drain", "--require-user", "puller")
    (letter,) = rows(engine, "SELECT reason, detail FROM dead_letter")
    assert letter.reason == "invalid"
    assert "published by an unnamed user, but --require-user demands puller" in letter.detail
    assert rows(engine, "SELECT count(*) FROM mirror_attempt") == [(0,)]
    assert rows(engine, "SELECT count(*) FROM ledger_arrival") == [(0,)]


def has_net(amqp_url: str) -> bool:
    with broker_channel(connection_parameters(amqp_url)) as channel:
        return "x-dead-letter-exchange" in queue_arguments(channel)


def wait_for_dead(amqp_url: str, count: int) -> None:
    with broker_channel(connection_parameters(amqp_url)) as channel:
        wait_for(lambda: message_count(channel, routing.DEAD_QUEUE) == count, "it to expire")


def test_returns_for_the_databases_sake_make_no_letters(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """However often workers begin and end while a row is locked, an event waits for it."""
    register_branches(engine, 1)
    publish_events(topology, failed(1, 0, "why"))
    with engine.connect() as blocker:
        blocker.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        blocker.execute(text("SELECT * FROM branch FOR UPDATE"))
        for _ in range(MAX_TRIALS + 1):
            # It waits for the lock, is told to end, and gives the event back.
            with shell.running("mirror-consumer", "run"):
                wait_for_rows(engine, f"SELECT count(*) {WAITING}", [(1,)])
            # What the worker asked for waits on for a while, although the worker is gone.
            rows(engine, f"SELECT pg_terminate_backend(pid) {WAITING}")
            wait_for_rows(engine, f"SELECT count(*) {WAITING}", [(0,)])
        blocker.rollback()
    shell.run("mirror-consumer", "run", "--drain")
    assert rows(engine, "SELECT mirror_failures FROM branch") == [(1,)]
    assert rows(engine, "SELECT count(*) FROM dead_letter") == [(0,)]
    assert rows(engine, "SELECT count(*) FROM suspect") == [(0,)]


WAITING = """
    FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
