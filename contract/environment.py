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
HEARTBEAT_SECONDS = "MIRRORFEED_HEARTBEAT_SECONDS"
LOG_FORMAT = "MIRRORFEED_LOG_FORMAT"
LOG_LEVEL = "MIRRORFEED_LOG_LEVEL"
AUTHSERVER_TOKEN = "MIRRORFEED_AUTHSERVER_TOKEN"  # noqa: S105 - its name, not the token

DEFAULT_AMQP_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"
DEFAULT_DATABASE_URL = "postgresql://127.0.0.1/mirrorfeed"


class UrlInFile(str):
    """A URL as it was in a file when that was read; the file may change."""

    _named: tuple[str, str]

    def __new__(cls, variable: str, path: str) -> Self:
        """Reads the file that the variable names. Raises ValueError if that is impossible."""
        try:
            url = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{variable} names {path}, which cannot be read: {error}; it must hold the URL"
            ) from error
        if not url:
            raise ValueError(f"{variable} names {path}, which is empty; it must hold the URL")
        self = super().__new__(cls, url)
        self._named = variable, path
        return self

    def again(self) -> Self:
        """Reads the file once more. Raises ValueError if that is impossible."""
        return type(self)(*self._named)


def url_in_file(variable: str) -> str | None:
    """The URL in the file that the variable `<variable>_FILE` names, None if that is not set. So a
    URL with a password need not be in the environment.

    Raises ValueError if the file cannot be read or is empty.
    """
    path = os.environ.get(f"{variable}_FILE")
    return UrlInFile(f"{variable}_FILE", path) if path else None


def newest(url: str) -> str:
    """The URL as it is now, if it came from a file: so a new password counts from the next
    connection on. Raises ValueError as `url_in_file` does."""
    return url.again() if isinstance(url, UrlInFile) else url
