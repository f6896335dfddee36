-- A user in each role of roles.sql, with the passwords of the Secret `roles`; safe to repeat.
\getenv worker WORKER_PASSWORD
\getenv operator OPERATOR_PASSWORD
\getenv reader READER_PASSWORD
SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['worker', 'operator', 'reader']) AS name
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
GRANT mirrorfeed_consumer TO worker;
GRANT mirrorfeed_operator TO operator;
GRANT mirrorfeed_reader TO reader;
ALTER ROLE worker PASSWORD :'worker';
ALTER ROLE operator PASSWORD :'operator';
ALTER ROLE reader PASSWORD :'reader';
