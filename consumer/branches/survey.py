"""All branches in the order of what their latest attempts say.

To know that order, the latest attempts of every branch must be looked up, for which there is no
index. So it is done for all of them at once, in many short transactions, and what is kept of it is
a few numbers for each branch.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import islice
from math import isnan
from typing import Any

from sqlalchemy import Connection, Engine, Row, text

from mirrorfeed.consumer.branches.listing import Filter, Patience, Sort, matching, page
from mirrorfeed.consumer.database import database_now

LATEST = 14
"""How many of a branch's attempts count."""
CHUNK = 4000
"""Branches of one transaction, which takes less than a tenth of a second."""
FIRST_LOOK = 1000
"""Branches among which those that meet a filter are looked for, before all that do are read."""
LONG_AGO = 1e12
"""Seconds; more than any time since 1970."""


class Ranking(StrEnum):
    """By what the latest attempts of a branch say; branches of which they say nothing come last."""

    SHARE = "share"
    """Lowest share of success first."""
    DURATION = "duration"
    """Longest mean duration first."""
    CHANGED = "changed"
    """Latest change of the revision first; then those that did not change within these attempts."""


# Of each order what is compared: what comes first is lowest. It is worked out here, because Python
# would keep all threads waiting for it.
READ = text("""
    SELECT
        chunk.id,
        coalesce(CAST(completed AS float) / nullif(finished, 0), 'Infinity') AS share,
        coalesce(-CAST(extract(epoch FROM mean) AS float), 'Infinity') AS duration,
        coalesce(
            CASE WHEN other IS NULL THEN CAST(:long_ago AS float) ELSE 0 END
            - CAST(extract(epoch FROM (
                SELECT min(started_at) FROM pg_catalog.unnest(same) AS started_at
                WHERE other IS NULL OR started_at > other
            )) AS float),
            'Infinity'
        ) AS changed
    FROM (
        SELECT id, last_mirrored_id FROM branch WHERE id > :after ORDER BY id LIMIT :limit
    ) chunk
    CROSS JOIN LATERAL (
        SELECT
            count(*) FILTER (WHERE outcome = 'completed') AS completed,
            count(outcome) AS finished,
            -- A clock that was set back makes some negative.
            avg(greatest(finished_at - started_at, interval '0'))
                FILTER (WHERE outcome = 'completed') AS mean,
            pg_catalog.array_agg(started_at) FILTER (
                WHERE outcome = 'completed' AND revision_id IS NOT DISTINCT FROM last_mirrored_id
            ) AS same,
            max(started_at) FILTER (
                WHERE outcome = 'completed' AND revision_id IS DISTINCT FROM last_mirrored_id
            ) AS other
        FROM (
            SELECT started_at, finished_at, outcome, revision_id FROM mirror_attempt
            WHERE branch_id = chunk.id ORDER BY started_at DESC LIMIT :latest
        ) attempt
    ) said
    ORDER BY chunk.id
""")


class Survey:
    """What the attempts of all branches said at one time. It is complete, and does not change."""

    def __init__(self, at: datetime, chunks: Iterator[Sequence[Row[Any]]]) -> None:
        """The rows of `chunks` are by id."""
        self.at = at
        self._ids = array("q")
        self._keys = {ranking: array("d") for ranking in Ranking}
        self._orders: dict[Ranking, array[int]] = {}
        for rows in chunks:
            ids, *keys = zip(*rows, strict=True)
            self._ids.extend(ids)
            for ranking, each in zip(Ranking, keys, strict=True):
                self._keys[ranking].extend(each)

    def following(
        self, ranking: Ranking, is_reversed: bool, after: Sequence[str] | None
    ) -> Iterator[tuple[int, list[str]]]:
        """The ids after that place, each with its own. A place of an earlier survey will do.

        Raises ValueError for what is no place.
        """
        order, keys = self._order(ranking), self._keys[ranking]

        def compared(index: int) -> tuple[float, int]:
            return keys[index], self._ids[index]

        if after is None:
            indexes = reversed(order) if is_reversed else iter(order)
        elif is_reversed:
            last = bisect_left(order, _place(after), key=compared)
            indexes = (order[index] for index in range(last - 1, -1, -1))
        else:
            first = bisect_right(order, _place(after), key=compared)
            indexes = (order[index] for index in range(first, len(order)))
        return ((self._ids[index], [repr(keys[index]), str(self._ids[index])]) for index in indexes)

    def _order(self, ranking: Ranking) -> "array[int]":
        if ranking not in self._orders:
            # Stable, so that of two branches alike the one with the lower id comes first.
            indexes = sorted(range(len(self._ids)), key=self._keys[ranking].__getitem__)
            self._orders[ranking] = array("q", indexes)
        return self._orders[ranking]


def survey(engine: Engine, is_cancelled: Callable[[], bool] = lambda: False) -> Survey | None:
    """Reads the latest attempts of all branches. None if it was cancelled meanwhile."""
    with engine.begin() as connection:
        at = database_now(connection)

    def chunks() -> Iterator[Sequence[Row[Any]]]:
        after = 0
        given = {"limit": CHUNK, "latest": LATEST, "long_ago": LONG_AGO}
        while not is_cancelled():
            with engine.begin() as connection:
                rows = connection.execute(READ, {**given, "after": after}).all()
            if rows:
                yield rows
                after = rows[-1].id
            if len(rows) < CHUNK:
                return

    found = Survey(at, chunks())
    return None if is_cancelled() else found


def ranked_page(
    connection: Connection,
    surveyed: Survey,
    ranking: Ranking,
    chosen: Filter,
    now: datetime,
    *,
    is_reversed: bool = False,
    after: Sequence[str] | None = None,
    limit: int,
    patience: Patience,
) -> list[dict[str, Any]]:
    """The next branches in that order, as `listing.page` gives them: what they are like is of now,
    only their order is of the survey. Raises ValueError for what is no place."""
    ranked = surveyed.following(ranking, is_reversed, after)
    is_sought = chosen != Filter()
    found: list[dict[str, Any]] = []
    while len(found) < limit:
        size = FIRST_LOOK if is_sought else limit
        places = dict(islice(ranked, size))
        if not places:
            break
        those = page(
            connection,
            chosen,
            now,
            sort=Sort.ID,
            limit=size,
            ids=list(places),
            patience=patience,
        )
        # Some may not be registered any more.
        known = {branch["id"]: branch for branch in those}
        found += [{**known[each], "place": places[each]} for each in places if each in known]
        if is_sought and len(found) < limit:
            wanted = set(matching(connection, chosen, now, patience=patience))
            ranked = (each for each in ranked if each[0] in wanted)
            is_sought = False
    return found[:limit]


def _place(after: Sequence[str]) -> tuple[float, int]:
    try:
        value, branch_id = after
        key = float(value), int(branch_id)
    except ValueError:
        key = float("nan"), 0
    if isnan(key[0]):
        raise ValueError("the place to go on from does not belong to this order: begin again")
    return key
