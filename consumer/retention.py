"""What may be deleted, when an operator says so."""

from datetime import timedelta

from msgspec import Struct
from sqlalchemy import Engine, TextClause, text

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

PRUNE_LETTERS = text("""
    DELETE FROM dead_letter WHERE id IN (
        SELECT id FROM dead_letter
        WHERE state <> 'dead' AND resolved_at < now() - CAST(:keep AS interval)
        LIMIT :chunk
    )
""")


class Pruned(Struct, frozen=True):
    """How many rows were removed."""

    attempts: int
    letters: int


def prune(engine: Engine, keep: timedelta) -> Pruned:
    """Deletes attempts older than both their branch's last success and `keep`, and letters that
    were resolved longer ago than `keep`."""
    return Pruned(_delete(engine, PRUNE_ATTEMPTS, keep), _delete(engine, PRUNE_LETTERS, keep))


def _delete(engine: Engine, statement: TextClause, keep: timedelta) -> int:
    deleted = 0
    while True:
        with engine.begin() as connection:
            in_chunk = connection.execute(statement, {"keep": keep, "chunk": CHUNK}).rowcount
        deleted += in_chunk
        if in_chunk < CHUNK:
            return deleted
