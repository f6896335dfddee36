"""What may be deleted, when an operator says so."""

from datetime import timedelta

from msgspec import Struct
from sqlalchemy import Engine, TextClause, text

from mirrorfeed.consumer.apply.projection import lock_branches

CHUNK = 1000
"""Rows in one transaction; others may have to wait for these."""

# An attempt before the last success decides no column of its branch. The last success is taken from
# the attempts, because somebody may have edited the branch row.
PRUNE_ATTEMPTS = text("""
    DELETE FROM mirror_attempt WHERE (branch_id, started_at) IN (
        SELECT old.branch_id, old.started_at
        FROM branch
        JOIN LATERAL (
            SELECT max(started_at) AS started_at FROM mirror_attempt
            WHERE branch_id = branch.id AND outcome = 'completed'
        ) success ON true
        JOIN LATERAL (
            SELECT branch_id, started_at FROM mirror_attempt
            WHERE branch_id = branch.id AND started_at < success.started_at
                AND started_at < now() - CAST(:keep AS interval)
        ) old ON true
        LIMIT :chunk
    )
""")

# Nor does an attempt that never ended, unless it is the latest. It may end just now.
PRUNE_UNFINISHED = text("""
    DELETE FROM mirror_attempt WHERE outcome IS NULL AND (branch_id, started_at) IN (
        SELECT old.branch_id, old.started_at
        FROM branch
        JOIN LATERAL (
            SELECT max(started_at) AS started_at FROM mirror_attempt WHERE branch_id = branch.id
        ) latest ON true
        JOIN LATERAL (
            SELECT branch_id, started_at FROM mirror_attempt
            WHERE branch_id = branch.id AND outcome IS NULL
                AND started_at > coalesce(last_mirrored, '-infinity')
                AND started_at < latest.started_at
                AND started_at < now() - CAST(:keep AS interval)
        ) old ON true
        LIMIT :chunk
    )
""")

# A branch whose row contradicts its attempts is left for `rebuild`.
FIND_FAILING = text("""
    SELECT id FROM branch
    WHERE mirror_failures > 1
        AND EXISTS (
            SELECT FROM mirror_attempt
            WHERE branch_id = branch.id AND outcome = 'failed'
                AND started_at > coalesce(last_mirrored, '-infinity')
                AND started_at < now() - CAST(:keep AS interval)
        )
        AND last_mirrored IS NOT DISTINCT FROM (
            SELECT started_at FROM mirror_attempt
            WHERE branch_id = branch.id AND outcome = 'completed'
            ORDER BY started_at DESC LIMIT 1
        )
    ORDER BY id
""")

# A failure since then counts, so pruned_attempts keeps their number; the latest stays, because the
# branch row shows its reason. The oldest go first: a failure before the last one that has gone is
# one that came again, and has been counted.
PRUNE_FAILURES = text("""
    WITH failing AS (
        SELECT id, coalesce(last_mirrored, '-infinity') AS success_at FROM branch WHERE id = :id
    ),
    counted AS (
        SELECT until, failures FROM pruned_attempts JOIN failing ON branch_id = id
        WHERE until > success_at
    ),
    old AS (
        SELECT branch_id, started_at FROM mirror_attempt JOIN failing ON branch_id = id
        WHERE outcome = 'failed' AND started_at > success_at
            AND started_at < now() - CAST(:keep AS interval)
            AND started_at < (
                SELECT started_at FROM mirror_attempt
                WHERE branch_id = :id AND outcome = 'failed' ORDER BY started_at DESC LIMIT 1
            )
        ORDER BY started_at LIMIT :chunk
    ),
    gone AS (
        DELETE FROM mirror_attempt attempt USING old
        WHERE attempt.branch_id = old.branch_id AND attempt.started_at = old.started_at
        RETURNING attempt.started_at
    ),
    kept AS (
        INSERT INTO pruned_attempts (branch_id, until, failures)
        SELECT
            :id,
            greatest(max(started_at), max(until)),
            coalesce(max(failures), 0)
                + count(*) FILTER (WHERE (started_at > until) IS NOT FALSE)
        FROM gone LEFT JOIN counted ON true
        HAVING count(*) > 0
        ON CONFLICT (branch_id)
            DO UPDATE SET until = excluded.until, failures = excluded.failures
    )
    SELECT count(*) FROM gone
""")

PRUNE_LETTERS = text("""
    DELETE FROM dead_letter WHERE id IN (
        SELECT id FROM dead_letter
        WHERE state <> 'dead' AND resolved_at < now() - CAST(:keep AS interval)
        LIMIT :chunk
    )
""")

PRUNE_OVERFLOW = text("""
    DELETE FROM letter_overflow WHERE id IN (
        SELECT id FROM letter_overflow WHERE resolved_at < now() - CAST(:keep AS interval)
        LIMIT :chunk
    )
""")

# Its worker has died, and the message has not come back.
PRUNE_SUSPECTS = text("""
    DELETE FROM suspect WHERE digest IN (
        SELECT digest FROM suspect WHERE tried_at < now() - CAST(:keep AS interval) LIMIT :chunk
    )
""")

PRUNE_OPERATIONS = text("""
    DELETE FROM operation WHERE id IN (
        SELECT id FROM operation
        WHERE coalesce(ended_at, CASE WHEN state = 'previewed' THEN created_at END)
            < now() - CAST(:keep AS interval)
        LIMIT :chunk
    )
""")


class Pruned(Struct, frozen=True):
    """How many rows were removed."""

    attempts: int
    letters: int
    overflow: int
    suspects: int
    operations: int


def prune(engine: Engine, keep: timedelta) -> Pruned:
    """Deletes what is older than `keep`: attempts that decide no column of their branch, or only
    how often it failed, which is kept; letters that were resolved, and notes of those that
    were not kept, if they were discarded; notes of suspects that never came back; operations that
    have ended, or were never started."""
    return Pruned(
        attempts=_prune_failures(engine, keep)
        + _delete(engine, PRUNE_UNFINISHED, keep)
        + _delete(engine, PRUNE_ATTEMPTS, keep),
        letters=_delete(engine, PRUNE_LETTERS, keep),
        overflow=_delete(engine, PRUNE_OVERFLOW, keep),
        suspects=_delete(engine, PRUNE_SUSPECTS, keep),
        operations=_delete(engine, PRUNE_OPERATIONS, keep),
    )


def _prune_failures(engine: Engine, keep: timedelta) -> int:
    with engine.connect() as connection:
        failing = list(connection.scalars(FIND_FAILING, {"keep": keep}))
    deleted = 0
    for branch_id in failing:
        in_chunk = CHUNK
        while in_chunk == CHUNK:
            with engine.begin() as connection:
                lock_branches(connection, [branch_id])
                parameters = {"id": branch_id, "keep": keep, "chunk": CHUNK}
                in_chunk = connection.execute(PRUNE_FAILURES, parameters).scalar_one()
            deleted += in_chunk
    return deleted


def _delete(engine: Engine, statement: TextClause, keep: timedelta) -> int:
    deleted = 0
    while True:
        with engine.begin() as connection:
            in_chunk = connection.execute(statement, {"keep": keep, "chunk": CHUNK}).rowcount
        deleted += in_chunk
        if in_chunk < CHUNK:
            return deleted
