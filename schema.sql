-- What mirrorfeed stores, for PostgreSQL 14 and later. `mirror-consumer init` creates this in a new
-- database, and upgrades an older one by the revisions in consumer/migrations/. `psql -1 -v
-- ON_ERROR_STOP=1 -f schema.sql` creates it as well, and can be repeated.
--
-- `mirror_attempt` is the truth: one row per attempt, in whatever order and however often its events
-- arrived. The mirror columns of `branch` are computed from it, so an event that comes late takes its
-- place in the past and never overwrites anything newer.

-- This file creates tables and never changes any: that is what revisions are for.
DO $$
DECLARE
    version text := '0001';
BEGIN
    IF to_regclass('branch') IS NOT NULL THEN
        IF to_regclass('schema_version') IS NOT NULL THEN
            SELECT version_num INTO version FROM schema_version;
        END IF;
        IF version <> '0009' THEN
            RAISE EXCEPTION 'the tables have version %: run mirror-consumer init to upgrade them to 0009', version;
        END IF;
    END IF;
END $$;

-- The revision of the tables: one row, kept by `mirror-consumer init`.
CREATE TABLE IF NOT EXISTS schema_version (
    version_num varchar(32) CONSTRAINT schema_version_pkc PRIMARY KEY
);
INSERT INTO schema_version SELECT '0009' WHERE NOT EXISTS (SELECT FROM schema_version);

-- A branch that pullers mirror. `mirror-consumer branches` registers it; an event about a branch
-- that is not registered goes to dead_letter.
CREATE TABLE IF NOT EXISTS branch (
    id                    bigint PRIMARY KEY CHECK (id > 0),
    unique_name           text NOT NULL UNIQUE,
    url                   text,
    -- When the latest attempt started, whether or not it has ended.
    last_mirror_attempt   timestamptz,
    -- When the latest completed attempt started (not when it ended), and its revision.
    last_mirrored         timestamptz,
    last_mirrored_id      text,
    -- How many failed attempts started after last_mirrored; if that is null, all failed attempts.
    mirror_failures       integer NOT NULL DEFAULT 0,
    -- Why the latest finished attempt failed; null if it completed.
    mirror_status_message text
) WITH (fillfactor = 70);  -- room for a new version of a row beside the old one (HOT updates)

-- One attempt to mirror one branch. Of two outcomes for one attempt the later one holds; if both have
-- the same time, completed wins.
--
--     started ─────> outcome null ──┬──> completed
--                                   └──> failed
--     (if an outcome arrives before its start, the start changes nothing)
CREATE TABLE IF NOT EXISTS mirror_attempt (
    branch_id      bigint NOT NULL REFERENCES branch ON DELETE CASCADE,
    started_at     timestamptz NOT NULL,
    finished_at    timestamptz,
    outcome        text CHECK (outcome IN ('completed', 'failed')),
    revision_id    text,
    failure_reason text,
    -- The row of `source` that reported the outcome, or first the start; null if nobody knows. No foreign
    -- key, which each event would have to check: a row of `source` is never deleted.
    source_id      bigint,
    PRIMARY KEY (branch_id, started_at),
    CHECK ((outcome IS NULL) = (finished_at IS NULL))
);

-- A branch's latest failure, and how many it has had since a success.
CREATE INDEX IF NOT EXISTS mirror_attempt_failed ON mirror_attempt (branch_id, started_at)
    WHERE outcome = 'failed';

-- What `mirror-consumer prune` has deleted of a branch that kept failing. Its attempts up to `until` count
-- for nothing any more, except these failures, as long as it has not succeeded later than that.
CREATE TABLE IF NOT EXISTS pruned_attempts (
    branch_id bigint PRIMARY KEY REFERENCES branch ON DELETE CASCADE,
    until     timestamptz NOT NULL,
    failures  integer NOT NULL
);

-- One run of a script that ended normally; script monitors look at these.
CREATE TABLE IF NOT EXISTS script_activity (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text NOT NULL,
    hostname       text NOT NULL,
    date_started   timestamptz NOT NULL,
    date_completed timestamptz NOT NULL CHECK (date_completed >= date_started),
    UNIQUE (name, hostname, date_started, date_completed)
);
CREATE INDEX IF NOT EXISTS script_activity_latest ON script_activity (name, date_started DESC);

-- A message that could not be applied, byte for byte; one row, however often it was delivered.
--
--     dead ──> replayed    it was applied after all
--          └─> discarded   an operator decided that it does not matter, and noted why;
--                          `restore` makes it dead again
CREATE TABLE IF NOT EXISTS dead_letter (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- too-large, malformed, unknown-type, invalid, from-the-future, unknown-branch,
    -- rejected-by-database or delivery-limit
    reason        text NOT NULL,
    detail        text NOT NULL,
    -- What replay applies: as delivered, or as edited by an operator.
    body          bytea NOT NULL,
    -- As delivered; null unless somebody edited it.
    original_body bytea,
    headers       jsonb NOT NULL DEFAULT '{}',
    -- What could be read of the event; null for what could not.
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
-- A message that is delivered again finds its letter, even if that was edited.
CREATE UNIQUE INDEX IF NOT EXISTS dead_letter_body
    ON dead_letter (sha256(coalesce(original_body, body)));
-- How many letters a source has filled within an hour; see letter_overflow.
CREATE INDEX IF NOT EXISTS dead_letter_allowance
    ON dead_letter (coalesce(left(source, 500), ''), first_seen_at);
-- Only dead letters are ever searched in large numbers.
CREATE INDEX IF NOT EXISTS dead_letter_dead ON dead_letter (id) WHERE state = 'dead';

-- Messages that could not be applied and were not kept: their source had already sent as many letters in
-- that hour as are kept (`mirror-consumer run --letters-per-hour`). Each row is what one batch had of one
-- source and reason. The same message may be in several rows, and later have a letter after all.
CREATE TABLE IF NOT EXISTS letter_overflow (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Its first 500 characters; null if it could not be read.
    source      text,
    reason      text NOT NULL,
    -- The SHA-256 of each body.
    digests     bytea[] NOT NULL,
    seen_at     timestamptz NOT NULL DEFAULT now(),
    -- When an operator decided that these do not matter, and why; `restore` takes that back.
    resolved_at timestamptz,
    note        text
);

-- Who reports: a spool on a puller's host, or some other publisher that numbers its events.
CREATE TABLE IF NOT EXISTS source (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uri            text NOT NULL,
    -- As a spool's URI names it; null for any other.
    hostname       text GENERATED ALWAYS AS (substring(uri FROM '^/pullers/([^/]+)/')) STORED,
    first_heard_at timestamptz NOT NULL DEFAULT now(),
    -- When its latest events arrived, as of the last fold.
    last_heard_at  timestamptz NOT NULL DEFAULT now(),
    -- A unique index would limit the length of a URI; the contract does not.
    EXCLUDE USING hash (uri WITH =)
);

-- What `source` was in 0.1.0, whose workers may still run.
CREATE OR REPLACE VIEW ledger_source AS SELECT id, uri AS source FROM source;

-- The ledger: which numbered events have arrived, whether applied or buried, by source. It is the union
-- of ledger_arrival and ledger_range. A batch only ever inserts into the first, so no worker waits for
-- another; from time to time one worker folds that into the second.
CREATE TABLE IF NOT EXISTS ledger_arrival (
    source      text NOT NULL,
    -- Empty for a publisher that does not number its events, but was heard.
    sequences   bigint[] NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    -- The CRC-32 of each one's event id; 0 or null if that is not known.
    ids         bigint[]
);

-- It has no key, which logical replication would need to delete from it.
ALTER TABLE ledger_arrival REPLICA IDENTITY FULL;

-- A range of sequences that all arrived, both ends included. A source with nothing missing has one row,
-- from 1 to its highest sequence. Rows of one source never overlap or touch.
CREATE TABLE IF NOT EXISTS ledger_range (
    source_id   bigint NOT NULL REFERENCES source ON DELETE CASCADE,
    first       bigint NOT NULL CHECK (first >= 1),
    last        bigint NOT NULL CHECK (last >= first),
    -- When the first of them arrived: since then the gap below it has been known.
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (source_id, last)
);

-- The event ids of each source's latest numbers, so that a number which comes again with another id is
-- noticed: two spools then speak as one source. A row is about 64 numbers, from 64 * block on.
CREATE TABLE IF NOT EXISTS ledger_event (
    source_id bigint NOT NULL REFERENCES source ON DELETE CASCADE,
    block     bigint NOT NULL CHECK (block >= 0),
    -- 31 bits of the CRC-32 of the id that each number first came with; 0 if it has not come.
    ids       integer[] NOT NULL,
    -- The numbers that came again with another id.
    reused    bigint[] NOT NULL,
    PRIMARY KEY (source_id, block)
);

CREATE INDEX IF NOT EXISTS ledger_event_reused ON ledger_event (source_id)
    WHERE pg_catalog.cardinality(reused) > 0;

-- What operators have settled about the ledger. Rows are only ever added, so that each decision shows who
-- made it, when and why.
--
--     accept   the numbers from `first` to `last` no longer count as missing
--     forget   the arrivals from `first` to `last` were moved to ledger_forgotten
--     undo     the decision `undoes` does not hold any more
CREATE TABLE IF NOT EXISTS ledger_decision (
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
);

-- The ranges that a decision took out of ledger_range, until it is undone.
CREATE TABLE IF NOT EXISTS ledger_forgotten (
    decision_id bigint NOT NULL REFERENCES ledger_decision ON DELETE CASCADE,
    first       bigint NOT NULL,
    last        bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (decision_id, last)
);

-- Messages that may kill a worker, by the SHA-256 of their bodies. A message that was delivered before is
-- noted here before it is decoded or applied, apart from others; the note is deleted once the message has come through.
-- What stays here has killed its workers; after a few trials it becomes a letter, unread.
CREATE TABLE IF NOT EXISTS suspect (
    digest   bytea PRIMARY KEY,
    trials   integer NOT NULL DEFAULT 1,
    tried_at timestamptz NOT NULL DEFAULT now()
);

-- The running workers. Each renews its row every second, so that the others know who is there when they
-- share out the queues.
CREATE TABLE IF NOT EXISTS worker (
    number      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hostname    text NOT NULL,
    pid         integer NOT NULL,
    -- From `run --share I/N`; null without it.
    share_index integer,
    share_count integer,
    -- The queues it is subscribed to.
    queues      text[] NOT NULL DEFAULT '{}',
    seen_at     timestamptz NOT NULL DEFAULT now(),
    -- The version of mirrorfeed it runs; null before 0.2.0.
    version     text,
    -- The PostgreSQL process that serves it, as pg_stat_activity has it: gone when the worker is. Null before
    -- 0.2.0, whose workers hold an advisory lock instead.
    backend_pid integer,
    -- What it said of itself at seen_at: what it waits for, what each queue has settled, and the like.
    report      jsonb
);

-- One row: which queues the workers consume, and whether their number is changing.
--
--     steady ──> to-interim ──> deleting-old ──> to-final ──> deleting-interim ──> steady
--     consumed:  old queues     interim queues                new queues
CREATE TABLE IF NOT EXISTS topology (
    is_row     boolean PRIMARY KEY DEFAULT true CHECK (is_row),
    partitions integer NOT NULL CHECK (partitions BETWEEN 1 AND 64),
    -- The new number; null if nothing is changing.
    moving_to  integer CHECK (moving_to BETWEEN 1 AND 64),
    stage      text NOT NULL DEFAULT 'steady' CHECK (
        stage IN ('steady', 'to-interim', 'deleting-old', 'to-final', 'deleting-interim')
    ),
    CHECK ((stage = 'steady') = (moving_to IS NULL))
);

-- What operators do: with letters, or with the number of partitions. A step of an operation and what it says
-- of itself here are one transaction, so it can go on after a kill.
--
--     previewed ──> running ──> done
--                   running <──> waiting (after the first letter), stopped, failed
CREATE TABLE IF NOT EXISTS operation (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text NOT NULL CHECK (
        kind IN ('apply', 'discard', 'restore', 'repartition')
    ),
    state         text NOT NULL CHECK (
        state IN ('previewed', 'running', 'waiting', 'stopped', 'failed', 'done')
    ),
    -- How the letters were selected; for a repartition, the number of partitions.
    asked         jsonb NOT NULL,
    letters       integer NOT NULL DEFAULT 0,
    -- What the operator had to say: why letters do not matter.
    note          text,
    -- Who: a user of the page, or of a host.
    actor         text NOT NULL,
    database_user text NOT NULL DEFAULT session_user,
    created_at    timestamptz NOT NULL DEFAULT now(),
    ended_at      timestamptz,
    -- What a dry run has shown.
    preview       jsonb,
    -- At most so many letters a second; null if as fast as it goes.
    rate          double precision,
    -- Whether to wait for the operator after the first letter.
    first_alone   boolean NOT NULL DEFAULT false,
    -- Whether the page's process carries it out; otherwise it is a command in somebody's terminal.
    unattended    boolean NOT NULL DEFAULT false,
    -- Who carries it out, and when they last said so.
    runner        text,
    renewed_at    timestamptz,
    -- How many letters have been applied, discarded and so on.
    result        jsonb NOT NULL DEFAULT '{}',
    -- How it is going, or why it failed.
    detail        text
);

CREATE INDEX IF NOT EXISTS operation_running ON operation (id) WHERE state = 'running';

-- The letters of an operation, in the order in which they take their turn.
CREATE TABLE IF NOT EXISTS operation_piece (
    operation_id bigint NOT NULL REFERENCES operation ON DELETE CASCADE,
    number       integer NOT NULL,
    letter_ids   bigint[] NOT NULL,
    -- The SHA-256 of each letter's body, which shows whether it was edited since.
    digests      bytea[] NOT NULL,
    -- What has become of the letters so far: of the first of them.
    outcomes     text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (operation_id, number)
);

-- Runs each script by itself, and returns those that were refused: their place, counting from 1, and the
-- error. The others stay done. An error in one of the SQLSTATE classes in `trouble` aborts everything,
-- because then no script is to blame. So one round trip is enough to find out what a database refuses in
-- a batch.
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
        EXCEPTION WHEN assert_failure OR OTHERS THEN  -- the latter does not mean the former
            IF left(SQLSTATE, 2) = ANY (trouble) THEN
                RAISE;
            END IF;
            error := SQLERRM;
            RETURN NEXT;
        END;
    END LOOP;
END
$$;
