INSERT INTO script_activity (name, hostname, date_started, date_completed)
SELECT name, hostname, CAST(started_at AS timestamptz), CAST(completed_at AS timestamptz)
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
    AS said (name, hostname, started_at, completed_at)
ON CONFLICT DO NOTHING
