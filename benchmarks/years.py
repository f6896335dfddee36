"""Branches and attempts as years leave them, made inside PostgreSQL."""

from contextlib import closing

from psycopg2.extensions import cursor as Cursor

from benchmarks.load import REASON, STEP
from benchmarks.stand import Stand
from mirrorfeed.consumer.apply.projection import PROJECT_BRANCHES
from mirrorfeed.consumer.database import open_engine

PROJECTED_AT_ONCE = 50_000

# Each row into an index of that size, and looked up in `branch`, would take many times as long.
WITHOUT_CONSTRAINTS = """
    ALTER TABLE mirror_attempt
        DROP CONSTRAINT mirror_attempt_pkey, DROP CONSTRAINT mirror_attempt_branch_id_fkey
"""
WITH_CONSTRAINTS = """
    ALTER TABLE mirror_attempt
        ADD PRIMARY KEY (branch_id, started_at),
        ADD FOREIGN KEY (branch_id) REFERENCES branch ON DELETE CASCADE
"""
# As `load.history` has it: all branches in turn, one attempt in twenty failed, one branch in fifty
# always does. Rows lie in the order of time, so that those of one branch are far from each other.
ADD_ATTEMPTS = """
    INSERT INTO mirror_attempt
        (branch_id, started_at, finished_at, outcome, revision_id, failure_reason)
    SELECT
        branch_id, started_at, started_at + interval '2 s',
        CASE WHEN has_failed THEN 'failed' ELSE 'completed' END,
        CASE WHEN NOT has_failed THEN left(md5(number::text) || md5('x'), 40) END,
        CASE WHEN has_failed THEN %(reason)s END
    FROM generate_series(1, %(attempts)s) AS number
    CROSS JOIN LATERAL (SELECT
        number %% %(branches)s + 1 AS branch_id,
        now() - interval '1 day' - %(step)s * (%(attempts)s - number) AS started_at
    ) AS attempt
    CROSS JOIN LATERAL (SELECT
        branch_id %% 50 = 0 OR abs(hashint8(number)) %% 20 = 0 AS has_failed
    ) AS outcome
"""
# Of one branch, the older half completed and then not once.
ADD_FAILING_ATTEMPTS = """
    INSERT INTO mirror_attempt
        (branch_id, started_at, finished_at, outcome, revision_id, failure_reason)
    SELECT
        %(branch_id)s, started_at, started_at + interval '2 s',
        CASE WHEN has_failed THEN 'failed' ELSE 'completed' END,
        CASE WHEN NOT has_failed THEN left(md5(number::text) || md5('x'), 40) END,
        CASE WHEN has_failed THEN %(reason)s END
    FROM generate_series(1, %(attempts)s) AS number
    CROSS JOIN LATERAL (SELECT
        now() - interval '1 day' - interval '10 s' * (%(attempts)s - number) AS started_at,
        number > %(attempts)s / 2 AS has_failed
    ) AS attempt
"""


def live(stand: Stand, branches: int, attempts: int) -> None:
    """Empties the tables, and fills them with so many branches and attempts of all of them."""
    stand.clear(branches)
    with closing(stand.connect()) as connection, connection.cursor() as cursor:
        if attempts:
            cursor.execute(WITHOUT_CONSTRAINTS)
            cursor.execute(
                ADD_ATTEMPTS,
                {"attempts": attempts, "branches": branches, "step": STEP, "reason": REASON},
            )
            cursor.execute("SET maintenance_work_mem = '1GB'")
            cursor.execute(WITH_CONSTRAINTS)
            _project(stand, branches)
        _settle(cursor)


def add_failing_attempts(stand: Stand, branch_id: int, attempts: int) -> None:
    """Gives a branch so many attempts, of which the latest half failed, one after the other."""
    with closing(stand.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(
            ADD_FAILING_ATTEMPTS,
            {"branch_id": branch_id, "attempts": attempts, "reason": REASON},
        )
        _settle(cursor)


def _project(stand: Stand, branches: int) -> None:
    engine = open_engine(stand.database_url)
    for first in range(1, branches + 1, PROJECTED_AT_ONCE):
        ids = list(range(first, min(first + PROJECTED_AT_ONCE, branches + 1)))
        with engine.begin() as connection:
            connection.execute(PROJECT_BRANCHES, {"branch_ids": ids})
    engine.dispose()


def _settle(cursor: Cursor) -> None:
    """What was made is on the disk, and neither vacuum nor a checkpoint is due for it."""
    cursor.execute("VACUUM ANALYZE branch, mirror_attempt")
    cursor.execute("CHECKPOINT")
