"""A private RabbitMQ node from Debian's package `rabbitmq-server`."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping

from sandbox import packages
from sandbox.errors import SandboxError
from sandbox.folder import PrivateFolder
from sandbox.ports import LOOPBACK, accepts_connections
from sandbox.private import PrivateServer
from sandbox.programs import run
from sandbox.waiting import wait_until

CONTROL_TIMEOUT_SECONDS = 60

_CONF = {
    # Limits that suit a small or busy machine; beyond either one the broker blocks publishers.
    "vm_memory_high_watermark.absolute": "512MB",
    "disk_free_limit.absolute": "10MB",
    # Quorum queues allocate this log up front; writing the default of 512 MB takes seconds.
    "raft.wal_max_size_bytes": "33554432",
    "log.console": "false",
    "log.file.level": "info",
}


class PrivateRabbitMQ(PrivateServer):
    """A private broker without plugins, for `guest` at the virtual host `/`.

    `extra_conf` are further lines of rabbitmq.conf, for example {"max_message_size": "2000"}.
    """

    _folder_prefix = "rabbitmq"
    _kind = "a private RabbitMQ"
    _shutdown_signal = signal.SIGTERM
    node_name = "mirrorfeed@localhost"

    def __init__(self, extra_conf: Mapping[str, str] = {}) -> None:
        super().__init__()
        self._conf = {**_CONF, **extra_conf}

    def control(self, *arguments: str, typed: str = "") -> str:
        """Runs rabbitmqctl on the node, as its administrator would; `typed` is its input.

        Raises:
            SandboxError: it failed or did not end within 60 seconds; the message has its
                output. Or the node was never started.
        """
        folder = self.folder
        if folder is None:
            raise SandboxError(f"rabbitmqctl {arguments[0]}: the node was never started")
        # RabbitMQ 4 reads its input only if there is no further option: 4.0 would hang.
        options = [] if typed else ["--quiet"]
        return run(
            [packages.rabbitmq_server().with_name("rabbitmqctl"), *options, *arguments],
            timeout_seconds=CONTROL_TIMEOUT_SECONDS,
            cwd=folder.path,
            env={"PATH": os.environ.get("PATH", os.defpath), **self._environment(folder)},
            typed=typed,
        ).stdout

    def _create(self, folder: PrivateFolder) -> None:
        packages.rabbitmq_server()
        _check_localhost()
        conf = "".join(f"{key} = {value}\n" for key, value in self._conf.items())
        (folder.path / "rabbitmq.conf").write_text(conf)
        (folder.path / "enabled_plugins").write_text("[].\n")

    def _launch(self, folder: PrivateFolder) -> subprocess.Popen[bytes]:
        server = packages.rabbitmq_server()
        self._start_port_mapper(folder)
        return folder.spawn([server], env=self._environment(folder))

    def _start_port_mapper(self, folder: PrivateFolder) -> None:
        """A port mapper of our own, in the foreground: the one Erlang would start by itself is a
        daemon shared by every node on the machine."""
        start_port_mapper(folder, self._epmd_port(folder))

    def _epmd_port(self, folder: PrivateFolder) -> int:
        return folder.ports[2]

    def _environment(self, folder: PrivateFolder) -> dict[str, str]:
        path = folder.path
        return {
            # Erlang creates its secret cookie here, so that no other node can join this one.
            "HOME": str(path),
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(self._epmd_port(folder)),
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(folder.ports[0]),
            "RABBITMQ_DIST_PORT": str(folder.ports[1]),
            # Loading code means thousands of short turns between a scheduler and the file
            # threads. If these sleep at once, which is RabbitMQ's default, a start on a virtual
            # machine takes twice as long.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwtdio very_short"
            ),
            "RABBITMQ_MNESIA_BASE": str(path / "data"),
            "RABBITMQ_LOG_BASE": str(path),
            "RABBITMQ_LOGS": str(path / "rabbitmq.log"),
            "RABBITMQ_PID_FILE": str(path / "pid"),
            "RABBITMQ_CONFIG_FILE": str(path / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(path / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(path / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(path / "enabled_plugins"),
            # The script then becomes the node instead of waiting for it, so that our child is
            # the node itself and shuts down at SIGTERM.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _answers(self, folder: PrivateFolder) -> bool:
        output = (folder.path / "output.log").read_text(errors="replace")
        port = folder.ports[0]
        if not (re.search(r"completed with \d+ plugins", output) and accepts_connections(port)):
            return False
        version = re.search(r"RabbitMQ (\d[\d.]*)", output)
        self.name = f"RabbitMQ {version[1] if version else ''} (private node)"
        self.url = f"amqp://guest:guest@{LOOPBACK}:{port}/%2F"
        return True


def start_port_mapper(folder: PrivateFolder, port: int) -> None:
    """Runs Erlang's port mapper, through which nodes find each other, in the folder.

    Raises:
        TimeoutError: it does not listen within 10 seconds.
    """
    folder.spawn(["epmd", "-address", LOOPBACK, "-port", str(port)], env={})
    wait_until(lambda: accepts_connections(port), 10, "epmd to listen")


def _check_localhost() -> None:
    """The node is named after it, and without it ends with a page of Erlang."""
    try:
        found = socket.getaddrinfo("localhost", None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        what = f"does not resolve ({error})"
    else:
        if any(address[0] == LOOPBACK for *_, address in found):
            return
        what = f"does not mean {LOOPBACK}"
    raise SandboxError(
        f"the name localhost {what}: add the line '{LOOPBACK} localhost' to /etc/hosts"
    )
