"""How pages read the database: briefly, and unable to change anything."""

from sqlalchemy import Engine

from mirrorfeed.consumer.database import open_engine

CONNECTIONS = 4
WAIT_SECONDS = 2.0
"""How long a page waits for one of the connections, when others have all of them."""
SETTINGS = {
    "application_name": "mirrorfeed web",
    # Longer than any page should take, and shorter than the service may take to end.
    "statement_timeout": "3s",
    # The worker's statements look up a few rows by key; pages also count whole tables.
    "enable_seqscan": "on",
    "enable_bitmapscan": "on",
    "enable_hashjoin": "on",
    "enable_mergejoin": "on",
}


def page_engine(database_url: str) -> Engine:
    """An engine whose transactions see one state of the database and cannot write: PostgreSQL
    refuses it, whoever the user is. Raises ValueError if the URL cannot be read."""
    return open_engine(
        database_url,
        lock_timeout_seconds=1.0,
        settings=SETTINGS,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS,
        # A database that was restarted costs no page an error.
        pool_pre_ping=True,
    ).execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
