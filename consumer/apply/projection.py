"""What a branch's attempts say about it: attempts are upserted, and branch rows computed from them.

The applier, replay, takeover and rebuild all compute branches with these statements, and no others.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from mirrorfeed.contract.events import MirrorCompleted, MirrorFailed, MirrorStarted


class Attempt(Struct, frozen=True, gc=False, omit_defaults=True):
    """What is said about one attempt: a row of `mirror_attempt`."""

    branch_id: int
    started_at: datetime
    finished_at: datetime | None = None
    outcome: str | None = None
    revision_id: str | None = None
    failure_reason: str | None = None

    def supersedes(self, known: "Attempt | None") -> bool:
        """Whether it says more than is known. UPSERT decides in the same way."""
        return known is None or (
            self.outcome is not None and (known.outcome is None or self.rank() > known.rank())
        )

    def rank(self) -> tuple[datetime, bool, bool, str]:
        """Of two outcomes the one with the higher rank holds. UPSERT decides in the same way.

        The contract orders by time, then ranks completed above failed. If two outcomes of the same
        kind and time differ, their text decides, so that the order of arrival never matters.
        """
        told = self.failure_reason if self.outcome == "failed" else self.revision_id
        finished_at = self.finished_at or self.started_at
        return finished_at, self.outcome == "completed", told is not None, told or ""


def attempt_of(time: datetime, event: MirrorStarted | MirrorCompleted | MirrorFailed) -> Attempt:
    """What one event says about its attempt."""
    match event:
        case MirrorCompleted(branch_id, started_at, revision_id):
            return Attempt(branch_id, started_at, time, "completed", revision_id=revision_id)
        case MirrorFailed(branch_id, started_at, reason):
            return Attempt(branch_id, started_at, time, "failed", failure_reason=reason)
        case _:
            return Attempt(event.branch_id, event.started_at)


# Every transaction takes its locks in the order of the ids, so that none deadlock.
LOCK_BRANCHES = text("""
    SELECT id FROM branch WHERE id = ANY(CAST(:branch_ids AS bigint[]))
    ORDER BY id FOR NO KEY UPDATE
""")


# Those that no other session has locked.
LOCK_FREE_BRANCHES = text(f"{LOCK_BRANCHES.text} SKIP LOCKED")
REGISTERED = text("SELECT id FROM branch WHERE id = ANY(CAST(:branch_ids AS bigint[]))")


def lock_branches(connection: Connection, branch_ids: Collection[int]) -> set[int]:
    """Locks the branches that are registered, and returns their ids."""
    if not branch_ids:
        return set()
    return set(connection.scalars(LOCK_BRANCHES, {"branch_ids": list(branch_ids)}))


def _rank(of: str) -> str:
    """The columns that decide which of two outcomes holds: `Attempt.rank`."""
    told = f"coalesce({of}.revision_id, {of}.failure_reason)"
    return f"""
        {of}.finished_at,
        {of}.outcome = 'completed',
        {told} IS NOT NULL,
        coalesce({told}, '') COLLATE "C"
    """


COLUMNS = """
    branch_id bigint, started_at timestamptz, finished_at timestamptz, outcome text,
    revision_id text, failure_reason text
"""

UPSERT = f"""
    INSERT INTO mirror_attempt AS known
        (branch_id, started_at, finished_at, outcome, revision_id, failure_reason)
    SELECT * FROM json_to_recordset(CAST(:attempts AS json)) AS attempt ({COLUMNS})
    ON CONFLICT (branch_id, started_at) DO UPDATE SET
        finished_at = excluded.finished_at,
        outcome = excluded.outcome,
        revision_id = excluded.revision_id,
        failure_reason = excluded.failure_reason
    WHERE excluded.outcome IS NOT NULL
        AND (known.outcome IS NULL OR ({_rank("excluded")}) > ({_rank("known")}))
"""

UPSERT_ATTEMPTS = text(UPSERT)


def upsert_attempts(connection: Connection, attempts: Sequence[Attempt]) -> None:
    """Adds what is new in the attempts. No attempt may be given twice."""
    document = msgspec.json.encode(attempts).decode()
    connection.execute(UPSERT_ATTEMPTS, {"attempts": document})


# For each given row, in order: how much it says about its attempt, and how much is known about that
# attempt, as UPSERT compares them; 0 for an attempt that is not known.
RANK_ATTEMPTS = text(f"""
    WITH said AS (
        SELECT * FROM ROWS FROM (json_to_recordset(CAST(:said AS json)) AS ({COLUMNS}))
            WITH ORDINALITY AS said (
                branch_id, started_at, finished_at, outcome, revision_id, failure_reason, place)
    ),
    each AS (
        SELECT * FROM said
        UNION ALL
        SELECT branch_id, started_at, known.finished_at, known.outcome, known.revision_id,
            known.failure_reason, NULL
        FROM (SELECT DISTINCT branch_id, started_at FROM said) AS attempt
        JOIN mirror_attempt AS known USING (branch_id, started_at)
    ),
    ranked AS (
        SELECT place, branch_id, started_at, dense_rank() OVER (
            PARTITION BY branch_id, started_at
            ORDER BY outcome IS NOT NULL, {_rank("each")}
        ) AS rank
        FROM each
    )
    SELECT
        pg_catalog.array_agg(CAST(rank AS integer) ORDER BY place) AS ranks,
        pg_catalog.array_agg(CAST(known_rank AS integer) ORDER BY place) AS known_ranks
    FROM (
        SELECT place, rank, coalesce(max(rank) FILTER (WHERE place IS NULL) OVER (
            PARTITION BY branch_id, started_at
        ), 0) AS known_rank
        FROM ranked
    ) AS compared
    WHERE place IS NOT NULL
""")

# Backwards along the primary key: no row before the last success is read.
PROJECT_BRANCHES = text("""
    UPDATE branch SET
        last_mirror_attempt = state.last_mirror_attempt,
        last_mirrored = state.last_mirrored,
        last_mirrored_id = state.last_mirrored_id,
        mirror_failures = state.mirror_failures,
        mirror_status_message = state.mirror_status_message
    FROM (
        SELECT
            touched.id,
            since.last_mirror_attempt,
            success.started_at AS last_mirrored,
            success.revision_id AS last_mirrored_id,
            since.mirror_failures,
            -- Without a failure since the last success, that success is what finished last.
            CASE WHEN since.mirror_failures > 0 THEN (
                SELECT failure_reason FROM mirror_attempt
                WHERE branch_id = touched.id AND outcome = 'failed'
                ORDER BY started_at DESC LIMIT 1
            ) END AS mirror_status_message
        FROM pg_catalog.unnest(CAST(:branch_ids AS bigint[])) AS touched (id)
        LEFT JOIN LATERAL (
            SELECT started_at, revision_id FROM mirror_attempt
            WHERE branch_id = touched.id AND outcome = 'completed'
            ORDER BY started_at DESC LIMIT 1
        ) success ON true
        CROSS JOIN LATERAL (
            SELECT
                max(started_at) AS last_mirror_attempt,
                count(*) FILTER (WHERE outcome = 'failed') AS mirror_failures
            FROM mirror_attempt
            WHERE branch_id = touched.id
                AND started_at >= coalesce(success.started_at, '-infinity')
        ) since
    ) state
    WHERE branch.id = state.id AND (
        branch.last_mirror_attempt, branch.last_mirrored, branch.last_mirrored_id,
        branch.mirror_failures, branch.mirror_status_message
    ) IS DISTINCT FROM (
        state.last_mirror_attempt, state.last_mirrored, state.last_mirrored_id,
        state.mirror_failures, state.mirror_status_message
    )
""")


def project_branches(connection: Connection, branch_ids: Sequence[int]) -> None:
    """Computes the rows of these branches from all their attempts."""
    connection.execute(PROJECT_BRANCHES, {"branch_ids": branch_ids})


IS_FAILURE = """
    is_so AND outcome = 'failed' AND (success_at IS NULL OR started_at > success_at)
"""

# Does both at once for a batch. If a branch's last success began before its first changed attempt,
# the old row and the attempts from there on are enough to compute the new row. However many earlier
# attempts or failures the branch has, none are read. Returns the other branches, for which
# something came late: PROJECT_BRANCHES must compute these.
APPLY_ATTEMPTS = text(f"""
    WITH changed AS (
        {UPSERT} RETURNING branch_id, started_at, outcome, revision_id, failure_reason
    ),
    touched AS (
        SELECT branch_id, min(started_at) AS first FROM changed GROUP BY branch_id
    ),
    recent AS (
        SELECT *, true AS is_so, false AS was_failed FROM changed
        UNION ALL
        -- The rows as they were before: a statement does not see its own changes.
        SELECT known.*,
            (known.branch_id, started_at) NOT IN (SELECT branch_id, started_at FROM changed),
            outcome IS NOT DISTINCT FROM 'failed'
        FROM touched CROSS JOIN LATERAL (
            SELECT branch_id, started_at, outcome, revision_id, failure_reason
            FROM mirror_attempt
            WHERE branch_id = touched.branch_id AND started_at >= touched.first
            OFFSET 0  -- to use the index, branch by branch
        ) known
    ),
    dated AS (
        SELECT *, max(started_at) FILTER (WHERE is_so AND outcome = 'completed')
            OVER (PARTITION BY branch_id) AS success_at
        FROM recent
    ),
    state AS (
        SELECT
            branch_id,
            min(started_at) AS first,
            max(started_at) AS latest,
            max(success_at) AS success_at,
            max(revision_id) FILTER (WHERE is_so AND started_at = success_at) AS revision_id,
            count(*) FILTER (WHERE was_failed) AS failures_before,
            count(*) FILTER (WHERE {IS_FAILURE}) AS failures,
            (pg_catalog.array_agg(failure_reason ORDER BY started_at DESC)
                FILTER (WHERE {IS_FAILURE}))[1] AS failure_reason
        FROM dated GROUP BY branch_id
    ),
    projected AS (
        UPDATE branch SET
            last_mirror_attempt = greatest(last_mirror_attempt, latest),
            last_mirrored = coalesce(success_at, last_mirrored),
            last_mirrored_id =
                CASE WHEN success_at IS NULL THEN last_mirrored_id ELSE revision_id END,
            mirror_failures = failures + CASE
                -- Not below 0, even if somebody changed the row by hand.
                WHEN success_at IS NULL THEN greatest(0, mirror_failures - failures_before)
                ELSE 0
            END,
            mirror_status_message = CASE
                WHEN failures > 0 THEN failure_reason
                WHEN success_at IS NULL THEN mirror_status_message
            END
        FROM state WHERE id = branch_id AND (first <= last_mirrored) IS NOT TRUE
    )
    SELECT branch_id FROM state JOIN branch ON id = branch_id WHERE first <= last_mirrored
""")
