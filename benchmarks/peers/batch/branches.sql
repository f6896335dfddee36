-- Each row is what a batch says of one branch, and comes after all that is known of it.
UPDATE branch SET
    last_mirror_attempt = greatest(last_mirror_attempt, CAST(attempted_at AS timestamptz)),
    last_mirrored = coalesce(CAST(mirrored_at AS timestamptz), last_mirrored),
    last_mirrored_id = CASE WHEN mirrored_at IS NULL THEN last_mirrored_id ELSE revision_id END,
    mirror_failures = failures + CASE WHEN mirrored_at IS NULL THEN mirror_failures ELSE 0 END,
    mirror_status_message = CASE
        WHEN failures > 0 THEN reason
        WHEN mirrored_at IS NULL THEN mirror_status_message
    END
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[])
    AS said (branch_id, attempted_at, mirrored_at, revision_id, failures, reason)
WHERE id = branch_id
