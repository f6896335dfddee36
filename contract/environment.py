"""The environment variables that both sides and every command read, and their defaults."""

import os
from pathlib import Path

AMQP_URL = "MIRRORFEED_AMQP_URL"
DATABASE_URL = "MIRRORFEED_DATABASE_URL"
SPOOL = "MIRRORFEED_SPOOL"
SPOOL_LIMIT_BYTES = "MIRRORFEED_SPOOL_LIMIT_BYTES"
PARTITIONS = "MIRRORFEED_PARTITIONS"
LOG_FORMAT = "MIRRORFEED_LOG_FORMAT"
LOG_LEVEL = "MIRRORFEED_LOG_LEVEL"
AUTHSERVER_TOKEN = "MIRRORFEED_AUTHSERVER_TOKEN"  # noqa: S105 - its name, not the token

DEFAULT_AMQP_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"
DEFAULT_DATABASE_URL = "postgresql://127.0.0.1/mirrorfeed"


def url_in_file(variable: str) -> str | None:
    """The URL in the file that the variable `<variable>_FILE` names, None if that is not set. So a
    URL with a password need not be in the environment.

    Raises ValueError if the file cannot be read or is empty.
    """
    path = os.environ.get(f"{variable}_FILE")
    if not path:
        return None
    try:
        url = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{variable}_FILE names {path}, which cannot be read: {error}; it must hold the URL"
        ) from error
    if not url:
        raise ValueError(f"{variable}_FILE names {path}, which is empty; it must hold the URL")
    return url
