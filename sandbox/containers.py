"""RabbitMQ and PostgreSQL as containers, through testcontainers."""

import gc
import secrets
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing

import pika
import pika.exceptions
import psycopg2
from docker.errors import DockerException, ImageNotFound  # type: ignore[import-untyped]
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

from sandbox.errors import SandboxError
from sandbox.ports import PortBlock
from sandbox.waiting import wait_until

RABBITMQ_IMAGE = "rabbitmq:4.3.5-management"
POSTGRESQL_IMAGE = "postgres:17.11-trixie"
_PASSWORD = secrets.token_hex(16)
"""Docker publishes ports on every interface of its host. All servers of this process have the same
one, as the members of a cluster do: a PostgreSQL URL with several hosts has room for one."""


def engine_answers() -> bool:
    """Whether the container engine named in the Docker client's environment can be reached."""
    with warnings.catch_warnings():
        # If none answers, the client library leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with closing(DockerClient().client) as client:
                return bool(client.ping())
        except DockerException:
            return False
        finally:
            gc.collect()


def fetch_images(*images: str) -> None:
    """Pulls those that the engine lacks, and what ends containers if this process is killed.

    Raises:
        SandboxError: one is missing and cannot be pulled; the message names the remedy.
    """
    helpers = () if testcontainers_config.ryuk_disabled else (testcontainers_config.ryuk_image,)
    with closing(DockerClient().client) as client:
        for image in (*images, *helpers):
            try:
                client.images.get(image)
            except ImageNotFound:
                sys.stderr.write(f"pulling the image {image} ...\n")
                sys.stderr.flush()
                try:
                    client.images.pull(image)
                except DockerException as error:
                    raise SandboxError(
                        f"the container engine has no image {image} and cannot pull it ({error}):"
                        f" make it available (docker pull {image}), or set"
                        " DOCKER_HOST=unix:///nonexistent to use Debian's packages instead"
                    ) from error


class _ContainerServer(ABC):
    """A server in a container; its host port stays the same from the first `start` to `stop`."""

    name: str
    url: str = ""
    _image: str
    _port: int

    def __init__(self) -> None:
        self._container: DockerContainer | None = None
        self._reserved: PortBlock | None = None

    def start(self) -> None:
        """Start the container, with its data if it has any, and return when the server answers.

        Raises:
            SandboxError: the image cannot be had, the container cannot be started, or the server
                does not answer within 60 seconds.
        """
        try:
            if self._container is None:
                self._create()
            else:
                self._container.get_wrapped_container().start()
            wait_until(self._answers, 60, "it to answer")
        except (DockerException, TimeoutError) as error:
            raise SandboxError(f"{self.name} cannot be started: {error}") from error

    def terminate(self) -> None:
        """Shut the server down cleanly, by force after 30 seconds; its data stays."""
        if self._container is not None:
            self._container.get_wrapped_container().stop(timeout=30)

    def kill(self) -> None:
        """End the server with SIGKILL, like a power cut; its data stays."""
        if self._container is not None:
            self._container.get_wrapped_container().kill()

    def stop(self) -> None:
        """Remove the container and its data. Does nothing if done before."""
        if self._container is not None:
            self._container.stop()
        if self._reserved is not None:
            self._reserved.close()
        self._container = self._reserved = None

    def _create(self) -> None:
        fetch_images(self._image)
        self._reserved = PortBlock()
        container = self._container = self._new_container()
        container.with_bind_ports(self._port, self._reserved.ports[0]).start()
        host, port = container.get_container_host_ip(), container.get_exposed_port(self._port)
        self.url = self._url(f"mirrorfeed:{_PASSWORD}@{host}:{port}")

    @abstractmethod
    def _new_container(self) -> DockerContainer: ...

    @abstractmethod
    def _url(self, authority: str) -> str: ...

    @abstractmethod
    def _answers(self) -> bool: ...


class ContainerRabbitMQ(_ContainerServer):
    """A broker in a container; `extra_conf` are further lines of rabbitmq.conf."""

    _image = RABBITMQ_IMAGE
    _port = 5672
    name = f"RabbitMQ (container {_image})"

    def __init__(self, extra_conf: Mapping[str, str] = {}) -> None:
        super().__init__()
        self._conf = "".join(f"{key} = {value}\n" for key, value in extra_conf.items())

    def _new_container(self) -> DockerContainer:
        return (
            DockerContainer(self._image)
            .with_env("RABBITMQ_DEFAULT_USER", "mirrorfeed")
            .with_env("RABBITMQ_DEFAULT_PASS", _PASSWORD)
            .with_copy_into_container(self._conf.encode(), "/etc/rabbitmq/conf.d/90-sandbox.conf")
        )

    def _url(self, authority: str) -> str:
        return f"amqp://{authority}/%2F"

    def _answers(self) -> bool:
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except pika.exceptions.AMQPError:
            return False
        return True


class ContainerPostgreSQL(_ContainerServer):
    """A database server in a container, with the superuser and the database `mirrorfeed`."""

    _image = POSTGRESQL_IMAGE
    _port = 5432
    name = f"PostgreSQL (container {_image})"

    def _new_container(self) -> DockerContainer:
        return (
            DockerContainer(self._image)
            .with_env("POSTGRES_USER", "mirrorfeed")
            .with_env("POSTGRES_PASSWORD", _PASSWORD)
            .with_env("POSTGRES_DB", "mirrorfeed")
        )

    def _url(self, authority: str) -> str:
        return f"postgresql://{authority}/mirrorfeed"

    def _answers(self) -> bool:
        try:
            with closing(psycopg2.connect(self.url, connect_timeout=1)) as connection:
                connection.cursor().execute("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True
