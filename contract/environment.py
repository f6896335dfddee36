"""The environment variables that both sides and every command read, and their defaults."""

AMQP_URL = "MIRRORFEED_AMQP_URL"
DATABASE_URL = "MIRRORFEED_DATABASE_URL"
SPOOL = "MIRRORFEED_SPOOL"
SPOOL_LIMIT_BYTES = "MIRRORFEED_SPOOL_LIMIT_BYTES"
PARTITIONS = "MIRRORFEED_PARTITIONS"

DEFAULT_AMQP_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"
DEFAULT_DATABASE_URL = "postgresql://127.0.0.1/mirrorfeed"
