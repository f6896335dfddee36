"""A branch's latest failure is found without reading the attempts since then."""

from alembic import op

from mirrorfeed.consumer.migrations import in_our_schema

revision = "0005"
down_revision = "0004"


@in_our_schema()
def upgrade() -> None:
    op.execute("""
        CREATE INDEX mirror_attempt_failed ON mirror_attempt (branch_id, started_at)
            WHERE outcome = 'failed'
    """)
