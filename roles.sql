-- Who may do what in the database, as roles that cannot log in: grant them to users that can
-- (docs/security.md). Apply this file as the owner of the tables, with the right to create roles, after
-- `mirror-consumer init` and again after each upgrade; it can be repeated:
--
--     psql -1 -v ON_ERROR_STOP=1 -f roles.sql "$MIRRORFEED_DATABASE_URL"
--
--     mirrorfeed_reader     reads everything: mirror-consumer status, history, scripts, check-scripts,
--                           audit, sources, topology, web, mirror-replay list, show, export; dashboards
--     mirrorfeed_consumer   what mirror-consumer run does, and nothing else
--     mirrorfeed_operator   the two above, mirror-replay, mirror-consumer branches except remove,
--                           rebuild, prune, audit accept, sources forget, topology
--
-- None of them may delete a branch, change its id, or alter a table; the owner may.

-- PostgreSQL 14 lets every user create functions in `public`. An overload of, say, unnest(bigint[]) would run as
-- whoever calls it, the owner included.
DO $$
BEGIN
    EXECUTE pg_catalog.format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
END $$;

DO $$
DECLARE role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['mirrorfeed_reader', 'mirrorfeed_consumer', 'mirrorfeed_operator']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role_name);
        END IF;
    END LOOP;
END $$;

-- Start from nothing, so that rights granted only by an earlier version go away.
REVOKE ALL ON branch, mirror_attempt, pruned_attempts, script_activity, dead_letter, letter_overflow, source,
    ledger_source, ledger_arrival, ledger_range, ledger_event, ledger_decision, ledger_forgotten, suspect,
    worker, topology, operation, operation_piece,
    schema_version
    FROM mirrorfeed_reader, mirrorfeed_consumer, mirrorfeed_operator;

GRANT SELECT ON branch, mirror_attempt, pruned_attempts, script_activity, dead_letter, letter_overflow, source,
    ledger_source, ledger_arrival, ledger_range, ledger_event, ledger_decision, ledger_forgotten, suspect,
    worker, topology, operation, operation_piece,
    schema_version TO mirrorfeed_reader;

-- The applier locks branch rows (SELECT … FOR NO KEY UPDATE needs the right to update a column), upserts
-- attempts and computes the mirror columns from them.
GRANT SELECT, UPDATE (
    last_mirror_attempt, last_mirrored, last_mirrored_id, mirror_failures, mirror_status_message
) ON branch TO mirrorfeed_consumer;
GRANT SELECT, INSERT, UPDATE (finished_at, outcome, revision_id, failure_reason, source_id)
    ON mirror_attempt TO mirrorfeed_consumer;
-- It counts the failures that were pruned.
GRANT SELECT ON pruned_attempts TO mirrorfeed_consumer;
GRANT INSERT ON script_activity TO mirrorfeed_consumer;
-- It buries messages, and counts one that comes again, or one too many.
GRANT INSERT (source, reason, digests) ON letter_overflow TO mirrorfeed_consumer;
GRANT SELECT,
    INSERT (reason, detail, body, headers, source, event_id, type, branch_id, attempts),
    UPDATE (attempts, reason, detail, state, resolved_at)
    ON dead_letter TO mirrorfeed_consumer;
-- It notes what arrived, and folds the notes into ranges.
GRANT SELECT, INSERT (source, sequences, ids), DELETE ON ledger_arrival TO mirrorfeed_consumer;
GRANT SELECT, INSERT (uri, first_heard_at, last_heard_at), UPDATE (last_heard_at)
    ON source TO mirrorfeed_consumer;
GRANT SELECT, INSERT (source) ON ledger_source TO mirrorfeed_consumer;
GRANT SELECT, INSERT, DELETE ON ledger_range TO mirrorfeed_consumer;
GRANT SELECT, INSERT, UPDATE (ids, reused), DELETE ON ledger_event TO mirrorfeed_consumer;
-- It notes messages that may kill it, and deletes the note when they did not.
GRANT SELECT, INSERT (digest), UPDATE (trials, tried_at), DELETE ON suspect TO mirrorfeed_consumer;
-- It checks whether the tables are new enough.
GRANT SELECT ON schema_version TO mirrorfeed_consumer;
-- It keeps its own row in the table of workers, and deletes those of dead workers.
GRANT SELECT, INSERT (hostname, pid, share_index, share_count, version, backend_pid),
    UPDATE (queues, seen_at, report), DELETE ON worker TO mirrorfeed_consumer;
GRANT SELECT, INSERT (partitions) ON topology TO mirrorfeed_consumer;

-- Replay uses the applier.
GRANT mirrorfeed_reader, mirrorfeed_consumer TO mirrorfeed_operator;
-- mirror-consumer branches.
GRANT INSERT (id, unique_name, url), UPDATE (unique_name, url) ON branch TO mirrorfeed_operator;
-- mirror-replay edit, discard, restore; import.
GRANT INSERT (original_body, first_seen_at, note),
    UPDATE (body, original_body, source, event_id, type, branch_id, note)
    ON dead_letter TO mirrorfeed_operator;
-- mirror-replay discard --overflow, restore --overflow.
GRANT UPDATE (resolved_at, note) ON letter_overflow TO mirrorfeed_operator;
-- mirror-consumer prune.
GRANT DELETE ON mirror_attempt, dead_letter, letter_overflow TO mirrorfeed_operator;
GRANT INSERT, UPDATE (until, failures) ON pruned_attempts TO mirrorfeed_operator;
-- mirror-consumer audit accept, audit undo, sources forget. Who decided, and when, is the database's word.
GRANT INSERT (kind, source_id, first, last, undoes, note) ON ledger_decision TO mirrorfeed_operator;
GRANT INSERT, DELETE ON ledger_forgotten TO mirrorfeed_operator;
-- mirror-consumer topology --partitions.
-- A lock needs the right to the whole table.
GRANT UPDATE ON topology TO mirrorfeed_operator;
-- Operations are kept. Who did one, as the database knows them, is the database's word.
GRANT INSERT (kind, state, asked, letters, note, actor, ended_at, preview, rate, runner, renewed_at, result),
    UPDATE (state, note, ended_at, rate, first_alone, unattended, runner, renewed_at, result, detail),
    DELETE ON operation TO mirrorfeed_operator;
GRANT INSERT, UPDATE (outcomes), DELETE ON operation_piece TO mirrorfeed_operator;
