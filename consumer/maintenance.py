"""Checking the branch table against its attempts, and forgetting what can no longer matter."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from msgspec import Struct
from sqlalchemy import Engine, TextClause, select, text

from consumer.applier import PROJECT_BRANCHES, lock_branches
from consumer.errors import NotSo
from consumer.status import Difference, differences, mirror_states
from consumer.tables import Branch

CHUNK = 1000
"""Rows in one transaction: what others may have to wait for."""

# An attempt before the last success decides no column of its branch. Which that is the attempts
# say, for somebody may have changed the branch row.
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


class UnknownBranches(NotSo):
    """Branches were named that are not registered."""


class Rebuilt(Struct, frozen=True):
    """How many branch rows were looked at, and those that were not what their attempts say."""

    checked: int
    differed: list[Difference]


class Pruned(Struct, frozen=True):
    """How many rows were removed."""

    attempts: int
    letters: int


def rebuild(
    engine: Engine, branch_ids: Sequence[int] | None = None, *, dry_run: bool = False
) -> Rebuilt:
    """Computes the rows of these branches, or of all, from their attempts.

    Raises UnknownBranches, having changed nothing, where one is not registered.
    """
    checked = 0
    differed: list[Difference] = []
    if branch_ids is not None:
        _check_registered(engine, branch_ids)
    for chunk in _chunks(engine, branch_ids):
        with engine.connect() as connection:
            lock_branches(connection, chunk)
            before = mirror_states(connection, chunk)
            connection.execute(PROJECT_BRANCHES, {"branch_ids": chunk})
            differed += differences(before, mirror_states(connection, chunk))
            checked += len(before)
            if dry_run:
                connection.rollback()
            else:
                connection.commit()
    return Rebuilt(checked, differed)


def prune(engine: Engine, keep: timedelta) -> Pruned:
    """Removes attempts that are older than their branch's last success and than `keep`, and letters
    that were resolved longer ago than that."""
    return Pruned(_delete(engine, PRUNE_ATTEMPTS, keep), _delete(engine, PRUNE_LETTERS, keep))


def _delete(engine: Engine, statement: TextClause, keep: timedelta) -> int:
    deleted = 0
    while True:
        with engine.begin() as connection:
            in_chunk = connection.execute(statement, {"keep": keep, "chunk": CHUNK}).rowcount
        deleted += in_chunk
        if in_chunk < CHUNK:
            return deleted


def _check_registered(engine: Engine, branch_ids: Sequence[int]) -> None:
    with engine.connect() as connection:
        unknown = set(branch_ids) - mirror_states(connection, branch_ids).keys()
    if unknown:
        raise UnknownBranches(
            f"not registered: branch {', '.join(map(str, sorted(unknown)))};"
            " mirror-consumer status lists those that are"
        )


def _chunks(engine: Engine, branch_ids: Sequence[int] | None) -> Iterator[list[int]]:
    if branch_ids is not None:
        for begin in range(0, len(branch_ids), CHUNK):
            yield list(branch_ids[begin : begin + CHUNK])
        return
    last = 0
    while chunk := _ids_after(engine, last):
        yield chunk
        last = chunk[-1]


def _ids_after(engine: Engine, last: int) -> list[int]:
    query = select(Branch.id).where(Branch.id > last).order_by(Branch.id).limit(CHUNK)
    with engine.connect() as connection:
        return list(connection.scalars(query))
