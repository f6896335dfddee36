"""Computing branch rows from all their attempts, as a check and as a cure."""

from collections.abc import Iterator, Sequence

from msgspec import Struct
from sqlalchemy import Engine, select

from mirrorfeed.consumer.apply.projection import lock_branches, project_branches
from mirrorfeed.consumer.branches.mirror_state import Difference, differences, mirror_states
from mirrorfeed.consumer.errors import UnknownBranches
from mirrorfeed.consumer.tables import Branch

CHUNK = 1000
"""Rows in one transaction; others may have to wait for these."""


class Rebuilt(Struct, frozen=True):
    """How many branch rows were checked, and those that were not what their attempts say."""

    checked: int
    differed: list[Difference]


def rebuild(
    engine: Engine, branch_ids: Sequence[int] | None = None, *, dry_run: bool = False
) -> Rebuilt:
    """Computes the rows of these branches, or of all, from their attempts.

    Raises UnknownBranches, having changed nothing, if one is not registered.
    """
    checked = 0
    differed: list[Difference] = []
    if branch_ids is not None:
        _check_registered(engine, branch_ids)
    for chunk in _chunks(engine, branch_ids):
        with engine.connect() as connection:
            lock_branches(connection, chunk)
            before = mirror_states(connection, chunk)
            project_branches(connection, chunk)
            differed += differences(before, mirror_states(connection, chunk))
            checked += len(before)
            if dry_run:
                connection.rollback()
            else:
                connection.commit()
    return Rebuilt(checked, differed)


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
