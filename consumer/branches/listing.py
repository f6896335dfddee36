"""Branches a page at a time: filtered, sorted, and counted by state.

A branch's state is that of its latest attempt. Most branches were mirrored by it, which their own
columns show; only of the others the attempt is looked up. So a page costs one pass over `branch`,
which stays small, however many attempts there are.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, TextClause, text

from mirrorfeed.consumer.branches.status import STUCK_AFTER, BranchState
from mirrorfeed.consumer.database import age_seconds

PAGE = 50


class Sort(StrEnum):
    """In which order."""

    ATTENTION = "attention"
    """By state, then longest stuck, most failures, oldest success."""
    NAME = "name"
    ID = "id"
    SUCCESS = "success"
    """Oldest success first; a branch that never had one is older than anything."""
    ATTEMPT = "attempt"
    """Latest attempt first."""
    FAILURES = "failures"
    """Most failures first."""


class Patience(Struct, frozen=True):
    """After how long something counts as wrong."""

    stuck_after: timedelta = STUCK_AFTER
    """An attempt that has not ended after that long is stuck."""
    stale_after: timedelta = timedelta(hours=6)
    """A branch that was attempted, and has had no success for that long, is stale."""


class Filter(Struct, frozen=True):
    """Which branches: those that meet every given criterion."""

    states: tuple[BranchState, ...] = ()
    name: str | None = None
    """Part of the name, in upper or lower case."""
    hostname: str | None = None
    """Of who reported the latest attempt."""
    older_than: timedelta | None = None
    """Their last success began longer ago than this, or they never had one."""
    is_stale: bool = False
    """They were attempted, and have had no success for too long."""
    is_in_need: bool = False
    """They are stuck, failing or stale."""


class Census(Struct, frozen=True):
    """How many branches there are."""

    states: dict[BranchState, int]
    stale: int
    in_need: int
    """Those that are stuck, failing or stale."""

    @property
    def total(self) -> int:
        return sum(self.states.values())


# Compared with each branch, so a plain CASE: a search in an array takes twice as long.
NEED = " ".join(
    ["CASE state", *(f"WHEN '{each}' THEN {i}" for i, each in enumerate(BranchState)), "END"]
)
KEYS: Mapping[Sort, Sequence[tuple[str, str]]] = {
    Sort.ATTENTION: [
        (NEED, "integer"),
        (
            "CASE state WHEN 'stuck' THEN last_mirror_attempt"
            " ELSE CAST('-infinity' AS timestamptz) END",
            "timestamptz",
        ),
        ("-mirror_failures", "integer"),
        ("coalesce(last_mirrored, CAST('-infinity' AS timestamptz))", "timestamptz"),
        ("id", "bigint"),
    ],
    Sort.NAME: [("unique_name", "text")],
    Sort.ID: [("id", "bigint")],
    Sort.SUCCESS: [
        ("coalesce(last_mirrored, CAST('-infinity' AS timestamptz))", "timestamptz"),
        ("id", "bigint"),
    ],
    Sort.ATTEMPT: [
        (
            "CAST(-extract(epoch FROM coalesce(last_mirror_attempt, CAST('epoch' AS timestamptz)))"
            " AS numeric)",
            "numeric",
        ),
        ("id", "bigint"),
    ],
    Sort.FAILURES: [("-mirror_failures", "integer"), ("id", "bigint")],
}
"""What each order compares, with the types; the last one differs for each branch."""

KNOWN = """
    known AS (
        SELECT branch.*, latest.source_id, CASE
            WHEN last_mirror_attempt IS NULL THEN 'never-mirrored'
            WHEN last_mirror_attempt = last_mirrored THEN 'mirrored'
            WHEN latest.started_at IS NULL THEN 'never-mirrored'
            WHEN latest.outcome = 'completed' THEN 'mirrored'
            WHEN latest.outcome = 'failed' THEN 'failing'
            WHEN latest.started_at < CAST(:stuck_since AS timestamptz) THEN 'stuck'
            ELSE 'mirroring' END AS state
        FROM branch
        LEFT JOIN LATERAL (
            SELECT started_at, outcome, mirror_attempt.source_id FROM mirror_attempt
            WHERE branch_id = branch.id AND (
                CAST(:hostname AS text) IS NOT NULL
                OR last_mirror_attempt IS DISTINCT FROM last_mirrored
            )
            ORDER BY started_at DESC LIMIT 1
        ) latest ON true
        WHERE (
            CAST(:name AS text) IS NULL
            OR strpos(lower(unique_name), lower(CAST(:name AS text))) > 0
        )
        AND (
            CAST(:success_before AS timestamptz) IS NULL
            OR last_mirrored IS NULL OR last_mirrored < CAST(:success_before AS timestamptz)
        )
        AND (
            CAST(:hostname AS text) IS NULL
            OR latest.source_id IN (SELECT id FROM source WHERE hostname = :hostname)
        )
        AND (CAST(:ids AS bigint[]) IS NULL OR branch.id = ANY (CAST(:ids AS bigint[])))
    ),
    judged AS (
        SELECT known.*, last_mirror_attempt IS NOT NULL AND (
            last_mirrored IS NULL OR last_mirrored < CAST(:stale_since AS timestamptz)
        ) AS is_stale
        FROM known
    )
"""

CHOSEN = """
    state = ANY (CAST(:states AS text[]))
    AND (NOT CAST(:stale AS boolean) OR is_stale)
    AND (NOT CAST(:in_need AS boolean) OR is_stale OR state IN ('stuck', 'failing'))
"""
MATCHING = text(f"WITH {KNOWN} SELECT id FROM judged WHERE {CHOSEN}")
COUNT = text(f"""
    WITH {KNOWN}
    SELECT
        state, count(*) AS branches,
        count(*) FILTER (WHERE is_stale) AS stale,
        count(*) FILTER (WHERE is_stale OR state IN ('stuck', 'failing')) AS in_need
    -- With OFFSET the state is worked out once, not once for each use of it.
    FROM (SELECT state, is_stale FROM judged OFFSET 0) each GROUP BY state
""")

# The latest attempts of a few branches, the latest first.
RECENT = text("""
    SELECT attempt.*, source.hostname
    FROM pg_catalog.unnest(CAST(:ids AS bigint[])) AS id
    CROSS JOIN LATERAL (
        SELECT branch_id, started_at, finished_at, outcome, revision_id, source_id
        FROM mirror_attempt WHERE branch_id = id
        ORDER BY started_at DESC LIMIT :limit
    ) attempt
    LEFT JOIN source ON source.id = attempt.source_id
    ORDER BY branch_id, started_at DESC
""")


def page(
    connection: Connection,
    chosen: Filter,
    now: datetime,
    *,
    sort: Sort = Sort.ATTENTION,
    is_reversed: bool = False,
    after: Sequence[str] | None = None,
    limit: int = PAGE,
    ids: Sequence[int] | None = None,
    patience: Patience,
) -> list[dict[str, Any]]:
    """The next branches in that order, of all or of those with these ids: their columns, `state`,
    `is_stale`, `last_success_age_seconds`, and `place`, which as `after` gives those that follow.

    Raises ValueError if `after` is no place in this order, DBAPIError if its values are none.
    """
    keys = KEYS[sort]
    if after is not None and len(after) != len(keys):
        raise ValueError("the place to go on from does not belong to this order: begin again")
    given = _parameters(chosen, now, patience)
    given |= {f"after_{index}": value for index, value in enumerate(after or ())}
    rows = connection.execute(
        _statement(sort, is_reversed, after is not None),
        {**given, "limit": limit, "ids": None if ids is None else list(ids)},
    )
    return [_branch(row._mapping, now, len(keys)) for row in rows]


def matching(
    connection: Connection, chosen: Filter, now: datetime, *, patience: Patience
) -> list[int]:
    """The ids of all branches that meet the criteria, in no order."""
    return list(connection.scalars(MATCHING, _parameters(chosen, now, patience)))


def census(
    connection: Connection,
    chosen: Filter,
    now: datetime,
    *,
    patience: Patience,
) -> Census:
    """How many branches are in each state, of those that meet all criteria but the states, and
    being stale or in need."""
    rows = list(connection.execute(COUNT, _parameters(chosen, now, patience)).mappings())
    counted = {BranchState(row["state"]): int(row["branches"]) for row in rows}
    return Census(
        {state: counted.get(state, 0) for state in BranchState},
        sum(int(row["stale"]) for row in rows),
        sum(int(row["in_need"]) for row in rows),
    )


def recent_attempts(
    connection: Connection, branch_ids: Sequence[int], limit: int
) -> dict[int, list[dict[str, Any]]]:
    """The latest attempts of each of these branches, the latest first, with their `hostname`."""
    found: dict[int, list[dict[str, Any]]] = {branch_id: [] for branch_id in branch_ids}
    for row in connection.execute(RECENT, {"ids": list(branch_ids), "limit": limit}):
        found[row.branch_id].append(dict(row._mapping))
    return found


def _parameters(chosen: Filter, now: datetime, patience: Patience) -> dict[str, Any]:
    return {
        "stuck_since": now - patience.stuck_after,
        "stale_since": now - patience.stale_after,
        "name": chosen.name,
        "hostname": chosen.hostname,
        "ids": None,
        "success_before": None if chosen.older_than is None else now - chosen.older_than,
        "states": [str(state) for state in chosen.states or BranchState],
        "stale": chosen.is_stale,
        "in_need": chosen.is_in_need,
    }


def _statement(sort: Sort, is_reversed: bool, is_following: bool) -> TextClause:
    keys = KEYS[sort]
    compared = ", ".join(expression for expression, _ in keys)
    places = ", ".join(f"CAST(:after_{i} AS {kind})" for i, (_, kind) in enumerate(keys))
    following = f"AND ({compared}) {'<' if is_reversed else '>'} ({places})"
    direction = "DESC" if is_reversed else "ASC"
    order = ", ".join(f"{expression} {direction}" for expression, _ in keys)
    selected = ", ".join(f"CAST({key} AS text) AS place_{i}" for i, (key, _) in enumerate(keys))
    # The places outside, where they are only made of the branches that are given.
    return text(f"""
        WITH {KNOWN}, chosen AS (
            SELECT * FROM judged WHERE {CHOSEN} {following if is_following else ""}
            ORDER BY {order} LIMIT :limit
        )
        SELECT chosen.*, {selected} FROM chosen ORDER BY {order}
    """)


def _branch(row: Mapping[Any, Any], now: datetime, keys: int) -> dict[str, Any]:
    last = row["last_mirrored"]
    places = [row[f"place_{index}"] for index in range(keys)]
    branch = {name: row[name] for name in row if not name.startswith("place_")}
    del branch["source_id"]
    return {
        **branch,
        "last_success_age_seconds": None if last is None else age_seconds(now, last),
        "place": places,
    }
