"""Find a RabbitMQ and a PostgreSQL, or start throwaway ones.

Each is chosen separately: the URL in the environment, else a container if an engine answers, else a
private server from Debian's packages.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NoReturn, Protocol

from sandbox import packages
from sandbox.errors import SandboxError
from sandbox.postgresql import PrivatePostgreSQL
from sandbox.rabbitmq import PrivateRabbitMQ

AMQP_URL = "MIRRORFEED_AMQP_URL"
DATABASE_URL = "MIRRORFEED_DATABASE_URL"
ADVISED_CONF = {"max_message_size": str(1024 * 1024)}
"""As docs/security.md has it."""


class Server(Protocol):
    """A server to test against, which can be started, shut down and broken."""

    @property
    def name(self) -> str:
        """What it is, for people: "RabbitMQ 3.10.8 (private node)"."""

    @property
    def url(self) -> str:
        """Where clients connect, with user and password; valid once it has started."""

    def start(self) -> None:
        """Start it, with its data and port if it ran before; return when it answers."""

    def terminate(self) -> None:
        """Shut it down cleanly; its data stays."""

    def kill(self) -> None:
        """End it with SIGKILL, like a power cut; its data stays."""

    def stop(self) -> None:
        """Shut it down cleanly and wipe its data. Does nothing if done before."""


class GivenServer:
    """A running server that is not ours: it is used, never started, stopped or killed."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url

    def start(self) -> None:
        """Do nothing: it is running."""

    def stop(self) -> None:
        """Do nothing: it is left as it is."""

    def terminate(self) -> NoReturn:
        """Refuse.

        Raises:
            SandboxError: always.
        """
        raise SandboxError(f"{self.name} is not ours to shut down; use a server of your own")

    def kill(self) -> NoReturn:
        """Refuse.

        Raises:
            SandboxError: always.
        """
        raise SandboxError(f"{self.name} is not ours to kill; use a server of your own")


def prepare() -> None:
    """Fetches what `find_broker` and `find_database` would, before anything else begins: it may
    take minutes, and says so.

    Raises:
        SandboxError: something is missing and cannot be had; the message names the remedy.
    """
    needed = [name for name in (AMQP_URL, DATABASE_URL) if not os.environ.get(name)]
    if needed and _engine_answers():
        from sandbox.containers import POSTGRESQL_IMAGE, RABBITMQ_IMAGE, fetch_images

        images = {AMQP_URL: RABBITMQ_IMAGE, DATABASE_URL: POSTGRESQL_IMAGE}
        fetch_images(*(images[name] for name in needed))
    else:
        programs = {AMQP_URL: packages.rabbitmq_server, DATABASE_URL: packages.postgresql_programs}
        for name in needed:
            programs[name]()


def find_broker() -> AbstractContextManager[Server]:
    """The RabbitMQ named by MIRRORFEED_AMQP_URL, else a throwaway one from `own_broker`."""
    url = os.environ.get(AMQP_URL)
    return nullcontext(GivenServer(f"RabbitMQ from {AMQP_URL}", url)) if url else own_broker()


def find_database() -> AbstractContextManager[Server]:
    """The PostgreSQL named by MIRRORFEED_DATABASE_URL, else one from `own_database`."""
    url = os.environ.get(DATABASE_URL)
    return (
        nullcontext(GivenServer(f"PostgreSQL from {DATABASE_URL}", url)) if url else own_database()
    )


@contextmanager
def own_broker(extra_conf: Mapping[str, str] = {}) -> Iterator[Server]:
    """A throwaway RabbitMQ that may be killed; `extra_conf` are further lines of rabbitmq.conf.

    Raises:
        SandboxError: none can be started; the message names the remedy.
    """
    conf = {**ADVISED_CONF, **extra_conf}
    if _engine_answers():
        from sandbox.containers import ContainerRabbitMQ

        server: Server = ContainerRabbitMQ(conf)
    else:
        server = PrivateRabbitMQ(conf)
    with _running(server):
        yield server


@contextmanager
def own_database() -> Iterator[Server]:
    """A throwaway PostgreSQL that may be killed.

    Raises:
        SandboxError: none can be started; the message names the remedy.
    """
    if _engine_answers():
        from sandbox.containers import ContainerPostgreSQL

        server: Server = ContainerPostgreSQL()
    else:
        server = PrivatePostgreSQL()
    with _running(server):
        yield server


@contextmanager
def _running(server: Server) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.stop()


def _engine_answers() -> bool:
    # Only here, because testcontainers is optional and slow to import.
    try:
        from sandbox.containers import engine_answers
    except ImportError:
        return False
    return engine_answers()
