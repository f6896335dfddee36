"""The environment variables that both sides and every command read, and their defaults."""

import os
from pathlib import Path
from typing import Self

AMQP_URL = "MIRRORFEED_AMQP_URL"
DATABASE_URL = "MIRRORFEED_DATABASE_URL"
SPOOL = "MIRRORFEED_SPOOL"
SPOOL_LIMIT_BYTES = "MIRRORFEED_SPOOL_LIMIT_BYTES"
PARTITIONS = "MIRRORFEED_PARTITIONS"
KEEP = "MIRRORFEED_KEEP"
KEEP_LIMIT_BYTES = "MIRRORFEED_KEEP_LIMIT_BYTES"
LETTERS_PER_HOUR = "MIRRORFEED_LETTERS_PER_HOUR"
HEARTBEAT_SECONDS = "MIRRORFEED_HEARTBEAT_SECONDS"
LOG_FORMAT = "MIRRORFEED_LOG_FORMAT"
LOG_LEVEL = "MIRRORFEED_LOG_LEVEL"
HTTP = "MIRRORFEED_HTTP"
PULLER_LIST = "MIRRORFEED_PULLER_LIST"
PULLER_INTO = "MIRRORFEED_PULLER_INTO"
PULLER_JOBS = "MIRRORFEED_PULLER_JOBS"
PULLER_PER_HOST = "MIRRORFEED_PULLER_PER_HOST"
PULLER_INTERVAL = "MIRRORFEED_PULLER_INTERVAL"
PULLER_ALLOW_PROTOCOL = "MIRRORFEED_PULLER_ALLOW_PROTOCOL"
PULLER_STALL_TIMEOUT = "MIRRORFEED_PULLER_STALL_TIMEOUT"
PULLER_TIMEOUT = "MIRRORFEED_PULLER_TIMEOUT"
PULLER_STOP_TIMEOUT = "MIRRORFEED_PULLER_STOP_TIMEOUT"
PULLER_MAX_MIRROR_BYTES = "MIRRORFEED_PULLER_MAX_MIRROR_BYTES"
PULLER_KEEP_FREE_BYTES = "MIRRORFEED_PULLER_KEEP_FREE_BYTES"
PULLER_GIT_CONFIG = "MIRRORFEED_PULLER_GIT_CONFIG"
PULLER_KNOWN_HOSTS = "MIRRORFEED_PULLER_KNOWN_HOSTS"
PULLER_SSH_KEY = "MIRRORFEED_PULLER_SSH_KEY"
PULLER_HOOK = "MIRRORFEED_PULLER_HOOK"
PULLER_HOOK_TIMEOUT = "MIRRORFEED_PULLER_HOOK_TIMEOUT"
PULLER_MAINTENANCE_INTERVAL = "MIRRORFEED_PULLER_MAINTENANCE_INTERVAL"
PULLER_FORWARD = "MIRRORFEED_PULLER_FORWARD"
AUTHSERVER_TOKEN = "MIRRORFEED_AUTHSERVER_TOKEN"  # noqa: S105 - its name, not the token

DEFAULT_AMQP_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"
DEFAULT_DATABASE_URL = "postgresql://127.0.0.1/mirrorfeed"


class InFile(str):
    """A secret as a file had it when it was read; since then it may have been replaced."""

    _named: tuple[str, str]
    _state: tuple[int, ...]

    def __new__(cls, variable: str, path: str) -> Self:
        """Reads the file that the variable names. Raises ValueError if there is nothing to read."""
        try:
            state = _state_of(path)
            secret = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{variable} names {path}, which cannot be read: {error}; {_remedy(variable)}"
            ) from error
        if not secret:
            raise ValueError(f"{variable} names {path}, which is empty; {_remedy(variable)}")
        self = super().__new__(cls, secret)
        self._named = variable, path
        self._state = state
        return self

    def again(self) -> Self:
        """The secret as the file has it now. Raises ValueError if there is nothing to read."""
        variable, path = self._named
        try:
            is_same = _state_of(path) == self._state
        except OSError:
            is_same = False
        return self if is_same else type(self)(variable, path)


def _remedy(variable: str) -> str:
    return f"it must hold what {variable.removesuffix('_FILE')} would"


def _state_of(path: str) -> tuple[int, ...]:
    found = Path(path).stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def in_file(variable: str) -> str | None:
    """What is in the file that the variable `<variable>_FILE` names, None if that is not set. So a
    secret need not be in the environment, where every command that is started inherits it.

    Raises ValueError if the file cannot be read or is empty.
    """
    path = os.environ.get(f"{variable}_FILE")
    return InFile(f"{variable}_FILE", path) if path else None


def newest(secret: str) -> str:
    """The same as it is now, if it came from a file: so a new password or token counts without a
    restart. Raises ValueError as `in_file` does."""
    return secret.again() if isinstance(secret, InFile) else secret
