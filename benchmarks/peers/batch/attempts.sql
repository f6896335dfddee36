-- Each row is what a batch says of one attempt.
INSERT INTO mirror_attempt AS known
    (branch_id, started_at, finished_at, outcome, revision_id, failure_reason)
SELECT branch_id, CAST(started_at AS timestamptz), CAST(finished_at AS timestamptz),
    outcome, revision_id, failure_reason
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
    AS said (branch_id, started_at, finished_at, outcome, revision_id, failure_reason)
ON CONFLICT (branch_id, started_at) DO UPDATE SET
    finished_at = excluded.finished_at,
    outcome = excluded.outcome,
    revision_id = excluded.revision_id,
    failure_reason = excluded.failure_reason
WHERE known.outcome IS NULL AND excluded.outcome IS NOT NULL
