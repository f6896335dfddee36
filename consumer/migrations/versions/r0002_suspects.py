"""The database notes messages that may have killed a worker; the broker no longer counts them."""

from alembic import op

from mirrorfeed.consumer.migrations import in_our_schema

revision = "0002"
down_revision = "0001"


@in_our_schema()
def upgrade() -> None:
    op.execute("""
        CREATE TABLE suspect (
            digest   bytea PRIMARY KEY,
            trials   integer NOT NULL DEFAULT 1,
            tried_at timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("ALTER TABLE worker ADD COLUMN version text")
