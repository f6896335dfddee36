"""What tests do with servers beside the product: make room, look, and clean up."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from uuid import uuid4

import pika
from sqlalchemy import Connection, Engine, event, select, text
from sqlalchemy.engine import URL

from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer import Branch
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.partitions import topology
from mirrorfeed.contract import routing, wire
from mirrorfeed.contract.events import Envelope
from sandbox import wait_until
from tests.reference import BranchState

PATIENCE_SECONDS = 60.0
"""More than the longest backoffs of a forwarder, 15 s, and a worker, 30 s, one after the other."""
MOST_PARTITIONS = 11
MAX_MESSAGE_BYTES = 4000
"""What the brokers that tests/faults kills take at most."""

OLDER_ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": 20,
    "x-dead-letter-exchange": "mirror.dead",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
"""Those of a partition queue of 0.1.0."""

fresh_branch_ids = count(1000)
"""Ids of branches that no other test, and no other example of one, has."""


@contextmanager
def new_database(server_url: URL, template: str | None = None, options: str = "") -> Iterator[URL]:
    """A database of its own on the server, dropped in the end."""
    name = f"mirrorfeed_test_{uuid4().hex}"
    admin = open_engine(
        server_url.set(database="postgres").render_as_string(hide_password=False)
    ).execution_options(isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(
            text(f'CREATE DATABASE "{name}" TEMPLATE "{template or "template1"}" {options}')
        )
    try:
        yield server_url.set(database=name)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
        admin.dispose()


def delete_topology(amqp_url: str) -> None:
    """Removes all that mirrorfeed declares, of partitions those that tests have."""
    with broker_channel(connection_parameters(amqp_url)) as channel:
        topology.delete_topology(channel, MOST_PARTITIONS)


def publish(amqp_url: str, *bodies: bytes, headers: dict[str, Any] | None = None) -> None:
    """Puts bodies, which need not be events, into partition 0 in this order, confirmed."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish(
                routing.EVENTS_EXCHANGE,
                "mirror.started.00",
                body,
                pika.BasicProperties(delivery_mode=2, headers=headers),
                mandatory=True,
            )


def publish_events(amqp_url: str, *envelopes: Envelope) -> None:
    """Publishes events as the contract has them, one after the other, confirmed."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for envelope in envelopes:
            event = envelope.event
            channel.basic_publish(
                routing.EVENTS_EXCHANGE,
                routing.routing_key(event.TYPE, envelope.partition_key),
                wire.encode(envelope),
                pika.BasicProperties(
                    content_type=wire.CONTENT_TYPE,
                    delivery_mode=2,
                    message_id=envelope.id,
                    type=event.TYPE,
                ),
                mandatory=True,
            )


def take_all(amqp_url: str, count: int, partitions: int = 4) -> list[tuple[Any, bytes]]:
    """Takes `count` messages, in order within each partition: their properties and bodies."""
    taken: list[tuple[Any, bytes]] = []
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()

        def take(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            taken.append((properties, body))
            channel.basic_ack(method.delivery_tag)

        for partition in range(partitions):
            channel.basic_consume(routing.partition_queue(partition), take)

        def has_all() -> bool:
            connection.process_data_events(time_limit=0)
            return len(taken) >= count

        wait_until(has_all, PATIENCE_SECONDS, f"{count} messages")
    return taken


def register_branches(engine: Engine, *branch_ids: int) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO branch (id, unique_name)"
                " SELECT id, 'b' || CAST(id AS text) FROM pg_catalog.unnest(:ids) id"
            ),
            {"ids": list(branch_ids)},
        )


def branch(engine: Engine, branch_id: int) -> Any:
    """The row of one branch."""
    with engine.connect() as connection:
        return connection.execute(select(Branch.__table__).where(Branch.id == branch_id)).one()


def state_of(engine: Engine, branch_id: int) -> BranchState:
    """The mirror columns of one branch."""
    row = branch(engine, branch_id)
    return BranchState(
        row.last_mirror_attempt,
        row.last_mirrored,
        row.last_mirrored_id,
        row.mirror_failures,
        row.mirror_status_message,
    )


def rows(engine: Engine, query: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(query)))


def wait_for_rows(engine: Engine, query: str, expected: list[tuple[Any, ...]]) -> None:
    """Waits until a query answers so; fails showing what it answered last."""
    seen: list[Any] = []

    def is_so() -> bool:
        seen[:] = [tuple(row) for row in rows(engine, query)]
        return seen == expected

    try:
        wait_until(is_so, PATIENCE_SECONDS, query)
    except TimeoutError:
        assert seen == expected, f"{query}: {seen}, not {expected}"


def wait_for(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, PATIENCE_SECONDS, what)


def refuse_in_database(engine: Engine, condition: str, error: str = "raise_exception") -> None:
    """A rule of somebody's own on our table, which PostgreSQL keeps."""
    with engine.begin() as connection:
        connection.execute(
            text(f"""
                CREATE OR REPLACE FUNCTION refuse_{error}() RETURNS trigger LANGUAGE plpgsql
                AS $$ BEGIN RAISE {error} USING MESSAGE = 'no poison here'; END $$;
                CREATE OR REPLACE TRIGGER refuse_{error} BEFORE INSERT ON mirror_attempt
                FOR EACH ROW WHEN (NEW.{condition}) EXECUTE FUNCTION refuse_{error}();
            """)
        )


@contextmanager
def locked(engine: Engine, statement: str) -> Iterator[int]:
    """A transaction that somebody forgot; gives the process id of its session."""
    with engine.connect() as connection:
        # Our own sessions end by themselves.
        connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        connection.execute(text(statement))
        yield pid


@contextmanager
def executed_statements(engine: Engine) -> Iterator[list[str]]:
    """What is executed in the block, but for what begins and ends transactions."""
    executed: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        executed.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield executed
    finally:
        event.remove(engine, "before_cursor_execute", note)


@contextmanager
def answer_lost(engine: Engine, question: str) -> Iterator[None]:
    """In the block, the connection that commits what this question is answered yes to dies once
    that is committed, and before its session knows. This happens once."""
    lost: list[int] = []

    def lose(connection: Connection) -> None:
        dbapi_connection: Any = connection.connection.dbapi_connection
        with dbapi_connection.cursor() as cursor:
            cursor.execute(question)
            if lost or not cursor.fetchone()[0]:
                return
            dbapi_connection.commit()
            cursor.execute("SELECT pg_backend_pid()")  # begins another one, whose commit fails
            lost.extend(cursor.fetchone())
        assert rows(engine, f"SELECT pg_terminate_backend({lost[0]}, 10000)") == [(True,)]

    event.listen(engine, "commit", lose)
    try:
        yield
    finally:
        event.remove(engine, "commit", lose)
    assert lost, f"never so: {question}"
