"""Servers that these tests may kill: never those of the environment."""

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.migrations import bring_forward
from mirrorfeed.consumer.partitions.topology import declare_topology
from mirrorfeed.contract import routing
from sandbox import Server, own_broker, own_database
from tests.servers import MAX_MESSAGE_BYTES, delete_topology, wait_for


@pytest.fixture(scope="module")
def broker() -> Iterator[Server]:
    with own_broker({"max_message_size": str(MAX_MESSAGE_BYTES)}) as broker:
        yield broker


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    with own_database() as database:
        yield database


@pytest.fixture
def amqp_url(broker: Server) -> Iterator[str]:
    yield broker.url
    delete_topology(broker.url)


@pytest.fixture
def topology(amqp_url: str) -> str:
    with broker_channel(connection_parameters(amqp_url)) as channel:
        declare_topology(channel, routing.DEFAULT_PARTITIONS)
    # RabbitMQ 3.10 may find no leader any more for a quorum queue whose node is killed within a
    # second of its declaration, and nothing that a client can ask tells when that second is over.
    declared_at = time.monotonic()
    wait_for(lambda: time.monotonic() > declared_at + 1.5, "the queues to be kept")
    return amqp_url


@pytest.fixture
def engine(database: Server) -> Iterator[Engine]:
    engine = open_engine(database.url)
    bring_forward(engine)
    with engine.begin() as connection:
        connection.execute(
            text("TRUNCATE branch, script_activity, dead_letter, ledger_arrival, source CASCADE")
        )
    yield engine
    engine.dispose()


@pytest.fixture
def database_url(database: Server, engine: Engine) -> str:
    return database.url
