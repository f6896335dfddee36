"""Which versions are here, as JSON: `python -m sandbox -- python -m tests.matrix.versions`.

Python and pika are those that run this; the servers say themselves what they are.
"""

import json
import os
import platform

import pika
from sqlalchemy import text

from mirrorfeed.amqp.connections import broker_channel, broker_version, connection_parameters
from mirrorfeed.amqp.fast_paths import COMPARED_VERSIONS
from mirrorfeed.consumer.database import open_engine
from sandbox import AMQP_URL, DATABASE_URL


def found() -> dict[str, str]:
    """By the names of the table's columns; servers that the environment does not name are left
    out."""
    versions = {
        "python": platform.python_version(),
        "pika": pika.__version__,
        "compared": ", ".join(sorted(COMPARED_VERSIONS)),
    }
    if AMQP_URL in os.environ:
        with broker_channel(connection_parameters(os.environ[AMQP_URL])) as channel:
            versions["rabbitmq"] = ".".join(map(str, broker_version(channel)))
    if DATABASE_URL in os.environ:
        engine = open_engine(os.environ[DATABASE_URL])
        with engine.connect() as connection:
            said: str = connection.execute(text("SHOW server_version")).scalar_one()
        engine.dispose()
        versions["postgresql"] = said.split()[0]
    return versions


if __name__ == "__main__":
    print(json.dumps(found()))
