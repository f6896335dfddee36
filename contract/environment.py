"""The environment variables that both sides and every command read, and their defaults."""

from urllib.parse import urlsplit

from contract.secrets import mask_secrets

AMQP_URL = "MIRRORFEED_AMQP_URL"
DATABASE_URL = "MIRRORFEED_DATABASE_URL"
SPOOL = "MIRRORFEED_SPOOL"
SPOOL_LIMIT_BYTES = "MIRRORFEED_SPOOL_LIMIT_BYTES"
PARTITIONS = "MIRRORFEED_PARTITIONS"
AUTHSERVER_TOKEN = "MIRRORFEED_AUTHSERVER_TOKEN"  # noqa: S105 - its name, not the token

DEFAULT_AMQP_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"
DEFAULT_DATABASE_URL = "postgresql://127.0.0.1/mirrorfeed"


def checked_amqp_url(url: str) -> str:
    """The URL itself. Raises ValueError, without its password, where it is not a broker's."""
    try:
        parts = urlsplit(url)
        is_fit = parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number
        is_fit = False
    if not is_fit:
        raise ValueError(
            f"the AMQP URL {mask_secrets(url)} cannot be read: one looks like"
            " amqp://user:password@host:5672/vhost"
        )
    return url
