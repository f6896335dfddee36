"""The servers of the sandbox start, speak, survive a kill and leave nothing behind."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pika
import pika.exceptions
import psycopg2
import pytest

from sandbox import (
    AMQP_URL,
    DATABASE_URL,
    PrivatePostgreSQL,
    PrivateRabbitMQ,
    SandboxError,
    find_broker,
    find_database,
    wait_until,
)
from sandbox.folder import processes_in

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 30

pytestmark = pytest.mark.skipif(
    not (Path("/usr/lib/rabbitmq/bin").exists() and Path("/usr/lib/postgresql").exists()),
    reason="needs Debian's packages rabbitmq-server and postgresql",
)


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateRabbitMQ]:
    with PrivateRabbitMQ({"max_message_size": "2000"}) as server:
        yield server


@pytest.fixture(scope="module")
def database() -> Iterator[PrivatePostgreSQL]:
    with PrivatePostgreSQL() as server:
        yield server


def publish(url: str, queue: str, body: bytes) -> None:
    """Return when the broker has confirmed the message."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))


def take(url: str, queue: str) -> object:
    """Return the first message of the queue, None if none comes."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        for method, _properties, body in channel.consume(queue, inactivity_timeout=30):
            if method is not None:
                channel.basic_ack(method.delivery_tag)
            return body
    return None


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_a_private_broker_keeps_its_messages(broker: PrivateRabbitMQ) -> None:
    """What it confirmed is there, at the same URL, after a clean shutdown and after a SIGKILL."""
    url = broker.url
    publish(url, "kept", b"first")
    # The shutdown comes first, because RabbitMQ 3.10 may not elect a leader any more for a quorum
    # queue that was killed within a second of its declaration.
    for end, body in ((broker.terminate, b"first"), (broker.kill, b"second")):
        end()
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            publish(url, "kept", b"lost")
        began = time.monotonic()
        broker.start()
        assert time.monotonic() - began < PATIENCE_SECONDS
        assert broker.url == url
        assert take(url, "kept") == body
        publish(url, "kept", b"second")


def test_extra_conf_reaches_the_broker(broker: PrivateRabbitMQ) -> None:
    """A message above the configured max_message_size of 2000 bytes is refused."""
    publish(broker.url, "small", bytes(2000))
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="larger than configured max"):
        publish(broker.url, "small", bytes(2001))


def test_a_private_database_keeps_commits_over_a_power_cut(database: PrivatePostgreSQL) -> None:
    """What was committed before a SIGKILL is there after a start, at the same URL."""
    url = database.url
    execute(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    database.kill()
    with pytest.raises(psycopg2.OperationalError):
        execute(url, "SELECT 1")
    database.start()
    assert database.url == url
    assert execute(url, "SELECT answer FROM kept") == [(42,)]


def test_a_private_database_is_as_durable_as_a_real_one(database: PrivatePostgreSQL) -> None:
    """No setting makes commits cheaper than in production."""
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert execute(database.url, f"SHOW {setting}") == [("on",)]


@pytest.mark.parametrize("server", [PrivateRabbitMQ(), PrivatePostgreSQL()], ids=["amqp", "sql"])
def test_stop_leaves_nothing(server: PrivateRabbitMQ | PrivatePostgreSQL) -> None:
    """After `stop` no file and no process of the server is left; to stop again is harmless."""
    with server:
        assert server.folder is not None
        path = server.folder.path
        assert processes_in(path)
    assert not processes_in(path)
    assert not path.exists()
    server.stop()


def test_a_killed_user_leaves_nothing() -> None:
    """When the process that uses a server ends by SIGKILL, the server and its files go as well."""
    program = (
        "from sandbox import *; s = PrivatePostgreSQL(); s.start(); print(s.folder.path); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as user:
        assert user.stdout is not None
        path = Path(user.stdout.readline().strip())
        assert processes_in(path)
        user.kill()
    wait_until(lambda: not path.exists(), PATIENCE_SECONDS, "the folder to go")
    assert not processes_in(path)


def test_given_servers_are_used_untouched(
    broker: PrivateRabbitMQ, database: PrivatePostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server named in the environment is handed out, cannot be killed, and runs on afterwards."""
    monkeypatch.setenv(AMQP_URL, broker.url)
    monkeypatch.setenv(DATABASE_URL, database.url)
    with find_broker() as given_broker, find_database() as given_database:
        assert (given_broker.url, given_database.url) == (broker.url, database.url)
        for given in (given_broker, given_database):
            given.start()
            given.stop()
            for refused in (given.kill, given.terminate):
                with pytest.raises(SandboxError, match="not ours"):
                    refused()
    publish(broker.url, "untouched", b"message")
    assert execute(database.url, "SELECT 1") == [(1,)]


def test_a_command_runs_with_both_servers(
    broker: PrivateRabbitMQ, database: PrivatePostgreSQL
) -> None:
    """`python -m sandbox -- COMMAND` gives the command both URLs and passes its exit code on."""
    urls = {AMQP_URL: broker.url, DATABASE_URL: database.url}
    script = f'test "${AMQP_URL} ${DATABASE_URL}" = "{broker.url} {database.url}" && exit 7'
    result = subprocess.run(
        [sys.executable, "-m", "sandbox", "--", "sh", "-c", script],
        cwd=ROOT,
        env={**os.environ, **urls},
        check=False,
    )
    assert result.returncode == 7
