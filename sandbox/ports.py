"""Free TCP ports on the loopback interface that stay ours."""

import random
import socket

from sandbox.errors import SandboxError

LOOPBACK = "127.0.0.1"

# Below the ports the kernel gives to outgoing connections (32768 and up): there, a client that
# keeps trying a stopped server would sooner or later be given that server's own port.
_BLOCKS = range(20000, 32000, 4)


class PortBlock:
    """Three free ports, reserved until `close`, even while no server listens on them.

    A fourth port next to them stays bound to mark the reservation. The kernel lets only one process
    have it and frees it when that process ends, so many can choose ports at the same time.

    Raises:
        SandboxError: no block is free.
    """

    def __init__(self) -> None:
        for first in random.sample(_BLOCKS, len(_BLOCKS)):
            try:
                self._mark = _bind(first)
            except OSError:
                continue
            self.ports = (first + 1, first + 2, first + 3)
            try:
                for port in self.ports:
                    _bind(port).close()
            except OSError:
                self._mark.close()
                continue
            return
        raise SandboxError(
            f"no four ports in a row are free from {_BLOCKS.start} to {_BLOCKS.stop}: end what has"
            f" taken them (ss -ltnp)"
        )

    def close(self) -> None:
        """Release the ports."""
        self._mark.close()


def accepts_connections(port: int) -> bool:
    """Whether something listens on this port of the loopback interface."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def _bind(port: int) -> socket.socket:
    bound = socket.socket()
    try:
        bound.bind((LOOPBACK, port))
    except OSError:
        bound.close()
        raise
    return bound
