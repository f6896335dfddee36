"""What operators do is kept: which letters it is about, how far it is, and who did it."""

from alembic import op

from mirrorfeed.consumer.migrations import in_our_schema

revision = "0008"
down_revision = "0007"


@in_our_schema()
def upgrade() -> None:
    op.execute("""
        CREATE TABLE operation (
            id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            kind          text NOT NULL CHECK (
                kind IN ('apply', 'discard', 'restore', 'repartition')
            ),
            state         text NOT NULL CHECK (
                state IN ('previewed', 'running', 'waiting', 'stopped', 'failed', 'done')
            ),
            asked         jsonb NOT NULL,
            letters       integer NOT NULL DEFAULT 0,
            note          text,
            actor         text NOT NULL,
            database_user text NOT NULL DEFAULT session_user,
            created_at    timestamptz NOT NULL DEFAULT now(),
            ended_at      timestamptz,
            preview       jsonb,
            rate          double precision,
            first_alone   boolean NOT NULL DEFAULT false,
            unattended    boolean NOT NULL DEFAULT false,
            runner        text,
            renewed_at    timestamptz,
            result        jsonb NOT NULL DEFAULT '{}',
            detail        text
        )
    """)
    op.execute("CREATE INDEX operation_running ON operation (id) WHERE state = 'running'")
    op.execute("""
        CREATE TABLE operation_piece (
            operation_id bigint NOT NULL REFERENCES operation ON DELETE CASCADE,
            number       integer NOT NULL,
            letter_ids   bigint[] NOT NULL,
            digests      bytea[] NOT NULL,
            outcomes     text[] NOT NULL DEFAULT '{}',
            PRIMARY KEY (operation_id, number)
        )
    """)
