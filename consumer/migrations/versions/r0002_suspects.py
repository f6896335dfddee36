"""What may have ended a worker is noted by us, no longer counted by the broker."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE suspect (
            digest   bytea PRIMARY KEY,
            trials   integer NOT NULL DEFAULT 1,
            tried_at timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("ALTER TABLE worker ADD COLUMN version text")
