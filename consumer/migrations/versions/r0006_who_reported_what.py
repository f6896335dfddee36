"""Attempts name who reported them, and the ledger keeps the latest numbers' event ids."""

from alembic import op

from mirrorfeed.consumer.migrations import in_our_schema

revision = "0006"
down_revision = "0005"


@in_our_schema()
def upgrade() -> None:
    op.execute("ALTER TABLE mirror_attempt ADD source_id bigint")
    op.execute("ALTER TABLE ledger_arrival ADD ids bigint[]")
    op.execute("""
        CREATE TABLE ledger_event (
            source_id bigint NOT NULL REFERENCES source ON DELETE CASCADE,
            block     bigint NOT NULL CHECK (block >= 0),
            ids       integer[] NOT NULL,
            reused    bigint[] NOT NULL,
            PRIMARY KEY (source_id, block)
        )
    """)
    op.execute("""
        CREATE INDEX ledger_event_reused ON ledger_event (source_id)
            WHERE pg_catalog.cardinality(reused) > 0
    """)
    # So that workers of this version need not wait for roles.sql.
    op.execute("""
        DO $$
        BEGIN
            IF to_regrole('mirrorfeed_consumer') IS NOT NULL THEN
                GRANT INSERT (ids) ON ledger_arrival TO mirrorfeed_consumer;
                GRANT INSERT (source_id), UPDATE (source_id) ON mirror_attempt
                    TO mirrorfeed_consumer;
                GRANT SELECT, INSERT, UPDATE (ids, reused), DELETE ON ledger_event
                    TO mirrorfeed_consumer;
            END IF;
            IF to_regrole('mirrorfeed_reader') IS NOT NULL THEN
                GRANT SELECT ON ledger_event TO mirrorfeed_reader;
            END IF;
        END $$
    """)
