-- What mirrorfeed keeps, PostgreSQL 14 and later. `mirror-consumer init` creates it in a new database,
-- and brings an older one to it by the revisions in consumer/migrations/. `psql -1 -f schema.sql` creates
-- it as well, and may be repeated.
--
-- `mirror_attempt` is the truth: one row an attempt, in whatever order and however often its events
-- arrived. The mirror columns of `branch` are computed from it, so that an event that comes late
-- takes its place in the past and never overwrites what is newer.

-- This file makes new tables and never changes any: that is what revisions are for.
DO $$
DECLARE
    version text := '0001';
BEGIN
    IF to_regclass('branch') IS NOT NULL THEN
        IF to_regclass('schema_version') IS NOT NULL THEN
            SELECT version_num INTO version FROM schema_version;
        END IF;
        IF version <> '0002' THEN
            RAISE EXCEPTION 'the tables are of version %: mirror-consumer init brings them to 0002', version;
        END IF;
    END IF;
END $$;

-- Which revision the tables are of: one row, kept by `mirror-consumer init`.
CREATE TABLE IF NOT EXISTS schema_version (
    version_num varchar(32) CONSTRAINT schema_version_pkc PRIMARY KEY
);
INSERT INTO schema_version SELECT '0002' WHERE NOT EXISTS (SELECT FROM schema_version);

-- A branch that pullers mirror. `mirror-consumer branches` registers it; an event about a branch
-- that is not registered goes to dead_letter.
CREATE TABLE IF NOT EXISTS branch (
    id                    bigint PRIMARY KEY CHECK (id > 0),
    unique_name           text NOT NULL UNIQUE,
    url                   text,
    -- The latest start of an attempt, whether it has ended or not.
    last_mirror_attempt   timestamptz,
    -- The latest start of an attempt that completed (its start, not its end), and its revision.
    last_mirrored         timestamptz,
    last_mirrored_id      text,
    -- How many attempts have failed that started after last_mirrored; all, where that is null.
    mirror_failures       integer NOT NULL DEFAULT 0,
    -- Why the latest finished attempt failed; null where it completed.
    mirror_status_message text
) WITH (fillfactor = 70);  -- room for a new version of a row beside the old one (HOT updates)

-- One attempt to mirror one branch. Of two outcomes for one attempt the later holds; at the same
-- time completed before failed.
--
--     started ─────> outcome null ──┬──> completed
--                                   └──> failed
--     (an outcome may arrive before its start, which then changes nothing)
CREATE TABLE IF NOT EXISTS mirror_attempt (
    branch_id      bigint NOT NULL REFERENCES branch ON DELETE CASCADE,
    started_at     timestamptz NOT NULL,
    finished_at    timestamptz,
    outcome        text CHECK (outcome IN ('completed', 'failed')),
    revision_id    text,
    failure_reason text,
    PRIMARY KEY (branch_id, started_at),
    CHECK ((outcome IS NULL) = (finished_at IS NULL))
);

-- One run of a script that ended normally; what script monitors look at.
CREATE TABLE IF NOT EXISTS script_activity (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text NOT NULL,
    hostname       text NOT NULL,
    date_started   timestamptz NOT NULL,
    date_completed timestamptz NOT NULL CHECK (date_completed >= date_started),
    UNIQUE (name, hostname, date_started, date_completed)
);
CREATE INDEX IF NOT EXISTS script_activity_latest ON script_activity (name, date_started DESC);

-- A message that could not be applied, byte for byte, once however often it was delivered.
--
--     dead ──> replayed    it was applied after all
--          └─> discarded   an operator decided that it does not matter, and noted why;
--                          it can be made dead again
CREATE TABLE IF NOT EXISTS dead_letter (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- too-large, malformed, unknown-type, invalid, from-the-future, unknown-branch,
    -- rejected-by-database or delivery-limit
    reason        text NOT NULL,
    detail        text NOT NULL,
    -- What is applied: as it was delivered, or as an operator edited it.
    body          bytea NOT NULL,
    -- As it was delivered; null where nobody edited it.
    original_body bytea,
    headers       jsonb NOT NULL DEFAULT '{}',
    -- What could be read of the event; null where it could not.
    source        text,
    event_id      text,
    type          text,
    branch_id     bigint,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    -- How often it was delivered.
    attempts      integer NOT NULL DEFAULT 1,
    state         text NOT NULL DEFAULT 'dead' CHECK (state IN ('dead', 'replayed', 'discarded')),
    resolved_at   timestamptz,
    note          text
);
-- A message that is delivered again finds its letter, edited or not.
CREATE UNIQUE INDEX IF NOT EXISTS dead_letter_body
    ON dead_letter (sha256(coalesce(original_body, body)));
-- Only of these there may be many to choose from.
CREATE INDEX IF NOT EXISTS dead_letter_dead ON dead_letter (id) WHERE state = 'dead';

-- The ledger: which numbered events have arrived, applied or buried, by source. It is the union of
-- the two tables below. Whoever commits a batch only ever inserts into the first, so that nobody
-- waits for anybody; from time to time one worker folds that into the second.
CREATE TABLE IF NOT EXISTS ledger_arrival (
    source      text NOT NULL,
    sequences   bigint[] NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS ledger_source (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    -- A unique index would bound the length, which the contract does not.
    EXCLUDE USING hash (source WITH =)
);

-- Sequences that arrived, without a gap, both ends included. A source of which nothing is missing
-- has one row, from 1 to its highest. Rows of one source never overlap or touch.
CREATE TABLE IF NOT EXISTS ledger_range (
    source_id   bigint NOT NULL REFERENCES ledger_source ON DELETE CASCADE,
    first       bigint NOT NULL CHECK (first >= 1),
    last        bigint NOT NULL CHECK (last >= first),
    -- When the first of them arrived: since then what is missing below is known to be.
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (source_id, last)
);

-- Messages that may end a worker, by the SHA-256 of their bodies. A message that was delivered before is
-- noted here before it is decoded or applied, alone, and forgotten when it has come through. What stays
-- here has ended its workers; after a few trials it becomes a letter, unread.
CREATE TABLE IF NOT EXISTS suspect (
    digest   bytea PRIMARY KEY,
    trials   integer NOT NULL DEFAULT 1,
    tried_at timestamptz NOT NULL DEFAULT now()
);

-- The workers that run. Each renews its row every second, and holds the advisory lock of its number
-- while its process lives, so that the others know who is there and share the queues out.
CREATE TABLE IF NOT EXISTS worker (
    number      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hostname    text NOT NULL,
    pid         integer NOT NULL,
    -- What `run --share I/N` asked for; null without it.
    share_index integer,
    share_count integer,
    -- What it is subscribed to.
    queues      text[] NOT NULL DEFAULT '{}',
    seen_at     timestamptz NOT NULL DEFAULT now(),
    -- The version of mirrorfeed it runs; null before 0.2.0.
    version     text
);

-- One row: which queues the workers consume, and whether their number is being changed.
--
--     steady ──> to-interim ──> deleting-old ──> to-final ──> deleting-interim ──> steady
--     consumed:  old ones       interim ones                  new ones
CREATE TABLE IF NOT EXISTS topology (
    is_row     boolean PRIMARY KEY DEFAULT true CHECK (is_row),
    partitions integer NOT NULL CHECK (partitions BETWEEN 1 AND 64),
    -- How many there will be; null where nothing is being changed.
    moving_to  integer CHECK (moving_to BETWEEN 1 AND 64),
    stage      text NOT NULL DEFAULT 'steady' CHECK (
        stage IN ('steady', 'to-interim', 'deleting-old', 'to-final', 'deleting-interim')
    ),
    CHECK ((stage = 'steady') = (moving_to IS NULL))
);

-- Runs each of the scripts by itself, and names those that are refused: where they stand, from 1, and
-- what was wrong. Those that are not stay done. An error of one of the classes of SQLSTATE in `trouble`
-- ends it all, for then no script is to blame. So a batch in which the database refuses something is
-- taken apart in one round trip.
CREATE OR REPLACE FUNCTION try_each(scripts json, trouble text[])
    RETURNS TABLE (place bigint, error text)
    LANGUAGE plpgsql AS $$
DECLARE
    script text;
BEGIN
    FOR place, script IN
        SELECT ordinality, value FROM json_array_elements_text(scripts) WITH ORDINALITY
    LOOP
        BEGIN
            EXECUTE script;
        EXCEPTION WHEN OTHERS THEN
            IF left(SQLSTATE, 2) = ANY (trouble) THEN
                RAISE;
            END IF;
            error := SQLERRM;
            RETURN NEXT;
        END;
    END LOOP;
END
$$;
