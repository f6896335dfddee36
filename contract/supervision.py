"""What others ask of a service: is it live, is it ready? And how systemd is told."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Protocol

from mirrorfeed.contract.printing import printable
from mirrorfeed.contract.secrets import masked_start

TELL_SECONDS = 1.0
EXTEND_SECONDS = 30
"""How much longer systemd waits for a service that is live and not ready yet."""
MAX_STATUS_CHARACTERS = 500


class Service(Protocol):
    """A service that knows how it is. Both answers come from memory, in any thread, at once."""

    def why_not_live(self) -> str | None:
        """Why only a restart would help; None if it is live."""

    def why_not_ready(self) -> str | None:
        """Why it does not do all that it should; None if it is ready."""


def condition_of(service: Service) -> tuple[bool, bool, str]:
    """Whether it is live, whether it is ready, and that in one line."""
    if hangs := service.why_not_live():
        return False, False, one_line(f"not live: {hangs}")
    if waits := service.why_not_ready():
        return True, False, one_line(f"not ready: {waits}")
    return True, True, "ready"


def one_line(text: str) -> str:
    """What an error says may be long, and have line breaks and passwords."""
    return printable(masked_start(text, MAX_STATUS_CHARACTERS))


class Supervisor:
    """Tells systemd how a service is, if systemd has started it with `Type=notify` (sd_notify(3)).

    Ready is said once, when it is so for the first time. Until then systemd is asked for more time,
    as long as the service is live: if a server is away for a day, a restart would not help.
    """

    def __init__(self, service: Service, environment: Mapping[str, str] = os.environ) -> None:
        self._service = service
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._next_at = 0.0
        self._is_ready = False
        self._status = ""

    def tell(self) -> None:
        """How it is now. The loop that waits for the service's end calls this as often as it
        likes; so a watchdog notices, too, if that loop hangs."""
        now = monotonic()
        if self._address is None or now < self._next_at:
            return
        self._next_at = now + TELL_SECONDS
        is_live, is_ready, status = condition_of(self._service)
        lines = []
        if is_ready and not self._is_ready:
            self._is_ready = True
            lines.append("READY=1")
        if is_live:
            lines.append("WATCHDOG=1")
        if is_live and not self._is_ready:
            lines.append(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1_000_000}")
        if status != self._status:
            self._status = status
            lines.append(f"STATUS={status}")
        self._send(lines)

    def stopping(self) -> None:
        """It has been told to end, and does."""
        self._send(["STOPPING=1", "STATUS=stopping"])

    def _send(self, lines: list[str]) -> None:
        if self._address is None or not lines:
            return
        with (
            suppress(OSError),  # there is nobody else to tell
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as telling,
        ):
            telling.sendto("\n".join(lines).encode(), self._address)


def _address(name: str) -> str | None:
    """A path, or a name in the abstract namespace, which NOTIFY_SOCKET begins with an @."""
    if not name.startswith(("/", "@")):
        return None
    return f"\0{name[1:]}" if name.startswith("@") else name
