"""The demo's two servers: found or started, and left as they were."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from demo.errors import DemoError
from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer.database import open_engine, unavailable
from mirrorfeed.consumer.partitions.topology import delete_topology, find_topology
from mirrorfeed.contract import environment, routing
from sandbox import Server, find_broker, find_database


@contextmanager
def both_servers() -> Iterator[tuple[Server, Server]]:
    """A broker and a database, started side by side. Raises SandboxError."""
    with ExitStack() as running:
        with ThreadPoolExecutor() as threads:
            broker = threads.submit(running.enter_context, find_broker())
            database = threads.submit(running.enter_context, find_database())
        yield broker.result(), database.result()


@contextmanager
def left_as_found(amqp_url: str, database_url: str) -> Iterator[None]:
    """Removes what mirrorfeed created on both servers, at the end.

    It must not remove anybody's work: if a server already has something of mirrorfeed's, it is
    refused before anything is changed. Raises DemoError.
    """
    refuse_if_any(on_broker(amqp_url), environment.AMQP_URL, "broker", "a virtual host")
    refuse_if_any(in_database(database_url), environment.DATABASE_URL, "database", "a database")
    try:
        yield
    finally:
        try:
            execute(database_url, f"DROP VIEW IF EXISTS {', '.join(created('VIEW'))}")
            execute(database_url, f"DROP TABLE IF EXISTS {', '.join(tables())}")
        finally:
            with broker_channel(connection_parameters(amqp_url)) as channel:
                delete_topology(channel, routing.DEFAULT_PARTITIONS)


def refuse_if_any(found: list[str], variable: str, server: str, remedy: str) -> None:
    if found:
        raise DemoError(
            f"the {server} in {variable} already has {', '.join(found)}, which the demo would write"
            f" to: give it {remedy} of its own, or unset {variable} to use a throwaway {server}",
            exit_code=2,
        )


def on_broker(amqp_url: str) -> list[str]:
    """Which of mirrorfeed's exchanges and queues are there."""
    with broker_channel(connection_parameters(amqp_url)) as channel:
        return find_topology(channel, routing.DEFAULT_PARTITIONS)


def in_database(database_url: str) -> list[str]:
    """Which of mirrorfeed's tables are there."""
    columns = ", ".join(f"to_regclass('{table}') IS NOT NULL" for table in tables())
    (row,) = execute(database_url, f"SELECT {columns}")
    return [f"table {table}" for table, is_there in zip(tables(), row, strict=True) if is_there]


def tables() -> list[str]:
    return created("TABLE")


def created(kind: str) -> list[str]:
    """The names of what `mirror-consumer init` creates of this kind."""
    schema = files("mirrorfeed").joinpath("schema.sql").read_text()
    return re.findall(rf"^CREATE (?:OR REPLACE )?{kind} (?:IF NOT EXISTS )?(\w+)", schema, re.M)


def execute(database_url: str, statement: str) -> list[Any]:
    engine = open_engine(database_url)
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement))
            return list(result) if result.returns_rows else []
    except DBAPIError as error:
        raise unavailable(error) from error
    finally:
        engine.dispose()
