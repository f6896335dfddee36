"""A worker is known by the PostgreSQL process that serves it: an advisory lock anybody can take.

It also says how it is.
"""

from alembic import op

from mirrorfeed.consumer.migrations import in_our_schema

revision = "0004"
down_revision = "0003"


@in_our_schema()
def upgrade() -> None:
    op.execute("ALTER TABLE worker ADD COLUMN backend_pid integer, ADD COLUMN report jsonb")
