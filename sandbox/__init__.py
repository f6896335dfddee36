"""A throwaway RabbitMQ and PostgreSQL for the demo, the tests and the benchmarks.

    with find_broker() as broker, find_database() as database:
        ...  # broker.url, database.url

`python -m sandbox -- COMMAND...` runs a command with both.
"""

from sandbox.errors import SandboxError
from sandbox.postgresql import PrivatePostgreSQL
from sandbox.rabbitmq import PrivateRabbitMQ
from sandbox.servers import (
    AMQP_URL,
    DATABASE_URL,
    GivenServer,
    Server,
    find_broker,
    find_database,
    own_broker,
    own_database,
    prepare,
)
from sandbox.waiting import wait_until

__all__ = [
    "AMQP_URL",
    "DATABASE_URL",
    "GivenServer",
    "PrivatePostgreSQL",
    "PrivateRabbitMQ",
    "SandboxError",
    "Server",
    "find_broker",
    "find_database",
    "own_broker",
    "own_database",
    "prepare",
    "wait_until",
]
