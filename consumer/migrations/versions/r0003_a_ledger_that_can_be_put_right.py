"""Operators can put the ledger right, floods of letters and long failures have a bound.

`source` takes the place of `ledger_source`, which becomes a view for workers of 0.1.0.
"""

from alembic import op

from mirrorfeed.consumer.migrations import in_our_schema

revision = "0003"
down_revision = "0002"


@in_our_schema()
def upgrade() -> None:
    op.execute("""
        CREATE TABLE pruned_attempts (
            branch_id bigint PRIMARY KEY REFERENCES branch ON DELETE CASCADE,
            until     timestamptz NOT NULL,
            failures  integer NOT NULL
        )
    """)
    op.execute("""
        CREATE TABLE letter_overflow (
            id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            source  text,
            reason  text NOT NULL,
            digests bytea[] NOT NULL,
            seen_at timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("ALTER TABLE ledger_arrival REPLICA IDENTITY FULL")
    op.execute("LOCK TABLE ledger_source, ledger_range")
    op.execute("""
        CREATE TABLE source (
            id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            uri            text NOT NULL,
            hostname       text GENERATED ALWAYS AS (
                substring(uri FROM '^/pullers/([^/]+)/')
            ) STORED,
            first_heard_at timestamptz NOT NULL DEFAULT now(),
            last_heard_at  timestamptz NOT NULL DEFAULT now(),
            EXCLUDE USING hash (uri WITH =)
        )
    """)
    # Nobody has noted when a source was last heard; until it is heard again, it is as of now.
    op.execute("""
        INSERT INTO source (id, uri, first_heard_at) OVERRIDING SYSTEM VALUE
        SELECT id, source, coalesce(min(recorded_at), now())
        FROM ledger_source LEFT JOIN ledger_range ON source_id = id GROUP BY id
    """)
    op.execute("""
        SELECT pg_catalog.setval(pg_get_serial_sequence('source', 'id'), max(id)) FROM source
        HAVING max(id) IS NOT NULL
    """)
    op.execute("""
        ALTER TABLE ledger_range
            DROP CONSTRAINT ledger_range_source_id_fkey,
            ADD FOREIGN KEY (source_id) REFERENCES source ON DELETE CASCADE
    """)
    op.execute("DROP TABLE ledger_source")
    op.execute("CREATE VIEW ledger_source AS SELECT id, uri AS source FROM source")
    # The rights that went with the table, so that workers of 0.1.0 do not wait for roles.sql.
    op.execute("""
        DO $$
        BEGIN
            IF to_regrole('mirrorfeed_consumer') IS NOT NULL THEN
                GRANT SELECT, INSERT (source) ON ledger_source TO mirrorfeed_consumer;
            END IF;
            IF to_regrole('mirrorfeed_reader') IS NOT NULL THEN
                GRANT SELECT ON ledger_source TO mirrorfeed_reader;
            END IF;
        END $$
    """)
    op.execute("""
        CREATE TABLE ledger_decision (
            id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            kind       text NOT NULL CHECK (kind IN ('accept', 'forget', 'undo')),
            source_id  bigint NOT NULL REFERENCES source ON DELETE CASCADE,
            first      bigint NOT NULL CHECK (first >= 1),
            last       bigint NOT NULL CHECK (last >= first),
            undoes     bigint UNIQUE REFERENCES ledger_decision ON DELETE CASCADE,
            note       text NOT NULL,
            decided_by text NOT NULL DEFAULT session_user,
            decided_at timestamptz NOT NULL DEFAULT now(),
            CHECK ((kind = 'undo') = (undoes IS NOT NULL))
        )
    """)
    op.execute("""
        CREATE TABLE ledger_forgotten (
            decision_id bigint NOT NULL REFERENCES ledger_decision ON DELETE CASCADE,
            first       bigint NOT NULL,
            last        bigint NOT NULL,
            recorded_at timestamptz NOT NULL,
            PRIMARY KEY (decision_id, last)
        )
    """)
