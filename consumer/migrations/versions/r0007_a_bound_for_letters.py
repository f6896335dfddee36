"""It can be counted how many letters a source has filled within an hour, and what operators decide
about those that were not kept is noted."""

from alembic import op

from mirrorfeed.consumer.migrations import in_our_schema

revision = "0007"
down_revision = "0006"


@in_our_schema()
def upgrade() -> None:
    op.execute("""
        CREATE INDEX dead_letter_allowance
            ON dead_letter (coalesce(left(source, 500), ''), first_seen_at)
    """)
    op.execute(
        "ALTER TABLE letter_overflow ADD COLUMN resolved_at timestamptz, ADD COLUMN note text"
    )
