"""Three private RabbitMQ nodes on this machine that form one cluster."""

import json
import signal
from secrets import token_hex

from sandbox.errors import SandboxError
from sandbox.folder import PrivateFolder
from sandbox.private import Throwaway
from sandbox.rabbitmq import PrivateRabbitMQ, start_port_mapper

NODES = ("one@localhost", "two@localhost", "three@localhost")
NET_TICK_SECONDS = 8
"""The other nodes consider a node down after this much silence, give or take a quarter. RabbitMQ's
default is 60 seconds (https://www.rabbitmq.com/docs/nettick)."""


class ClusterNode(PrivateRabbitMQ):
    """One of the three."""

    def __init__(self, node_name: str, cookie: str, epmd_port: int) -> None:
        peers = {
            f"cluster_formation.classic_config.nodes.{number}": peer
            for number, peer in enumerate(NODES, 1)
        }
        super().__init__(
            {
                "cluster_formation.peer_discovery_backend": "classic_config",
                **peers,
                # When a partitioned cluster meets again, the smaller part restarts. With the
                # default, `ignore`, it would stay partitioned until somebody restarts a node, and
                # `pause_minority` misses a frozen node, which finds the others again before it
                # knows that they were away (https://www.rabbitmq.com/docs/partitions).
                "cluster_partition_handling": "autoheal",
            }
        )
        self.node_name = node_name
        self._cookie = cookie
        self._shared_epmd_port = epmd_port

    def freeze(self) -> None:
        """Stops the node with SIGSTOP: it accepts connections, but answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen node continue."""
        self._signal(signal.SIGCONT)

    def _signal(self, signal_number: signal.Signals) -> None:
        if self._server is not None:
            self._server.send_signal(signal_number)

    def _create(self, folder: PrivateFolder) -> None:
        super()._create(folder)
        cookie = folder.path / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        (folder.path / "advanced.config").write_text(
            f"[{{kernel, [{{net_ticktime, {NET_TICK_SECONDS}}}]}}].\n"
        )

    def _start_port_mapper(self, folder: PrivateFolder) -> None:
        """All three nodes share the cluster's port mapper."""

    def _epmd_port(self, folder: PrivateFolder) -> int:
        return self._shared_epmd_port


class PrivateCluster(Throwaway):
    """Three nodes that can be killed, frozen and started again. A context manager."""

    def __init__(self) -> None:
        # The port mapper must outlive nodes that are killed, so it has its own folder.
        self._folder = PrivateFolder("cluster")
        cookie = token_hex(16).upper()
        self.nodes = [ClusterNode(name, cookie, self._folder.ports[0]) for name in NODES]

    @property
    def urls(self) -> list[str]:
        """Where clients connect, one URL per node."""
        return [node.url for node in self.nodes]

    def start(self) -> None:
        """Starts all nodes, one after the other: the first creates the cluster, the others join it.

        Raises:
            SandboxError: a node cannot be started.
        """
        start_port_mapper(self._folder, self._folder.ports[0])
        for node in self.nodes:
            node.start()

    @property
    def is_whole(self) -> bool:
        """Whether each node says that all three are running."""
        try:
            status = [node.control("cluster_status", "--formatter", "json") for node in self.nodes]
        except SandboxError:
            return False
        return all(len(json.loads(each)["running_nodes"]) == len(NODES) for each in status)

    def leader_of(self, queue: str) -> ClusterNode:
        """The node that leads a quorum queue.

        Raises:
            SandboxError: no node answers.
        """
        return self._named(self._column("leader", queue))

    def members_of(self, queue: str) -> list[ClusterNode]:
        """The nodes that have a copy of a quorum queue."""
        names = self._column("members", queue).strip("[]").split(",")
        return [self._named(name.strip()) for name in names]

    def stop(self) -> None:
        """Ends all nodes and wipes their data."""
        for node in self.nodes:
            node.kill()  # a node that shuts down cleanly may wait for the others
            node.stop()
        self._folder.remove()

    def _named(self, name: str) -> ClusterNode:
        return next(node for node in self.nodes if node.node_name == name)

    def _column(self, column: str, queue: str) -> str:
        listed = self.nodes[0].control("list_queues", "--no-table-headers", "name", column)
        rows = dict(line.split("\t", 1) for line in listed.splitlines())
        return rows[queue]
