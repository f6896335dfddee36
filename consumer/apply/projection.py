"""What a branch's attempts say about it: attempts are upserted, and branch rows computed from them.

The applier, replay, takeover and rebuild all compute branches with these statements, and no others.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from mirrorfeed.consumer.database import array_of
from mirrorfeed.contract.events import MirrorCompleted, MirrorFailed, MirrorStarted


class Attempt(Struct, frozen=True, gc=False, omit_defaults=True):
    """What is said about one attempt: a row of `mirror_attempt`."""

    branch_id: int
    started_at: datetime
    finished_at: datetime | None = None
    outcome: str | None = None
    revision_id: str | None = None
    failure_reason: str | None = None
    source_id: int | None = None

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


def attempt_of(
    time: datetime,
    event: MirrorStarted | MirrorCompleted | MirrorFailed,
    source_id: int | None = None,
) -> Attempt:
    """What one event says about its attempt."""
    match event:
        case MirrorCompleted(branch_id, started_at, revision_id):
            return Attempt(branch_id, started_at, time, "completed", revision_id, None, source_id)
        case MirrorFailed(branch_id, started_at, reason):
            return Attempt(branch_id, started_at, time, "failed", None, reason, source_id)
        case _:
            return Attempt(event.branch_id, event.started_at, source_id=source_id)


# Every transaction takes its locks in the order of the ids, so that none deadlock.
LOCK_BRANCHES = text("""
    SELECT id FROM branch WHERE id = ANY(CAST(:branch_ids AS bigint[]))
    ORDER BY id FOR NO KEY UPDATE
""")


# Those that no other session has locked.
LOCK_FREE_BRANCHES = text(f"{LOCK_BRANCHES.text} SKIP LOCKED")
REGISTERED = text("SELECT id FROM branch WHERE id = ANY(CAST(:branch_ids AS bigint[]))")

# The branches of those given attempts that are known, and that another session has locked. OFFSET 0
# has each looked up by its key: a join may compare all given ones with all known ones.
LOCKED_ATTEMPTS = text("""
    SELECT given.branch_id
    FROM json_to_recordset(CAST(:attempts AS json))
        AS given (branch_id bigint, started_at timestamptz)
    CROSS JOIN LATERAL (
        SELECT FROM mirror_attempt
        WHERE branch_id = given.branch_id AND started_at = given.started_at
        OFFSET 0
    ) known
    WHERE NOT EXISTS (
        SELECT FROM mirror_attempt
        WHERE branch_id = given.branch_id AND started_at = given.started_at
        FOR NO KEY UPDATE SKIP LOCKED
    )
""")


def lock_branches(connection: Connection, branch_ids: Collection[int]) -> set[int]:
    """Locks the branches that are registered, and returns their ids."""
    if not branch_ids:
        return set()
    return set(connection.scalars(LOCK_BRANCHES, {"branch_ids": array_of(branch_ids)}))


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
        (branch_id, started_at, finished_at, outcome, revision_id, failure_reason, source_id)
    SELECT * FROM json_to_recordset(CAST(:attempts AS json))
        AS attempt ({COLUMNS}, source_id bigint)
    ON CONFLICT (branch_id, started_at) DO UPDATE SET
        finished_at = excluded.finished_at,
        outcome = excluded.outcome,
        revision_id = excluded.revision_id,
        failure_reason = excluded.failure_reason,
        source_id = excluded.source_id
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

# Backwards along the primary key: no row before the last success is read. What was pruned counts as
# long as no success came later.
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
        LEFT JOIN pruned_attempts pruned
            ON pruned.branch_id = touched.id AND (until > success.started_at) IS NOT FALSE
        CROSS JOIN LATERAL (
            SELECT
                max(started_at) AS last_mirror_attempt,
                coalesce(pruned.failures, 0) + count(*) FILTER (
                    WHERE outcome = 'failed' AND (started_at > until) IS NOT FALSE
                ) AS mirror_failures
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


MANY = 1000
"""More attempts of one branch are not read for one event, if there is any other way."""

# Does both at once for a batch. The old row and the attempts that change are enough to compute the
# new row, wherever they are in time and however many others the branch has:
#
# - Without a later success, each failure more or less counts one more or less.
# - With one, the failures after it are counted. If those are many, it came late, and the failures
#   that it leaves behind are subtracted: those before it, down to the success before. Each is
#   counted once in that way, because the next late success only leaves behind what came after.
#
# Of the other branches it says `is_late`, and PROJECT_BRANCHES must compute them: those whose last
# success has changed and, as a cure for a row that somebody edited, those for which something came
# late and which have few attempts since.
_APPLY = f"""
    WITH changed AS (
        {UPSERT} RETURNING branch_id, started_at, outcome, revision_id, failure_reason
    ),
    compared AS (
        SELECT
            changed.*, was, until, pruned_failures,
            last_mirror_attempt, last_mirrored, mirror_failures,
            max(started_at) FILTER (WHERE outcome = 'completed')
                OVER (PARTITION BY branch_id) AS success_at
        FROM changed
        JOIN branch ON id = branch_id
        -- What was known of it: a statement does not see its own changes. OFFSET 0 keeps PostgreSQL
        -- from looking for what began later than any known attempt.
        LEFT JOIN LATERAL (
            SELECT outcome AS was FROM mirror_attempt known
            WHERE known.branch_id = changed.branch_id AND known.started_at = changed.started_at
                AND changed.started_at <= last_mirror_attempt
            OFFSET 0
        ) before ON true
        LEFT JOIN LATERAL (
            SELECT until, failures AS pruned_failures FROM pruned_attempts
            WHERE pruned_attempts.branch_id = changed.branch_id
                AND changed.started_at < last_mirror_attempt
            OFFSET 0
        ) pruned ON true
    ),
    dated AS (
        SELECT
            *, greatest(success_at, last_mirrored) AS success_now,
            (started_at > greatest(success_at, last_mirrored, until)) IS NOT FALSE AS counts
        FROM compared
    ),
    state AS (
        SELECT
            branch_id, last_mirror_attempt, last_mirrored, mirror_failures,
            success_now AS success_at,
            success_now IS DISTINCT FROM last_mirrored AS has_new_success,
            min(started_at) AS first,
            max(started_at) AS latest,
            max(until) AS until,
            max(pruned_failures) AS pruned_failures,
            max(revision_id) FILTER (WHERE started_at = success_now) AS revision_id,
            bool_or(started_at = last_mirrored) IS TRUE AS has_changed_success,
            count(*) FILTER (WHERE counts AND outcome = 'failed')
                - count(*) FILTER (WHERE counts AND was = 'failed') AS more_failures,
            max(started_at) FILTER (WHERE counts AND outcome = 'failed') AS failed_at,
            (pg_catalog.array_agg(failure_reason ORDER BY started_at DESC)
                FILTER (WHERE counts AND outcome = 'failed'))[1] AS failure_reason
        FROM dated
        GROUP BY branch_id, last_mirror_attempt, last_mirrored, mirror_failures, success_now
    ),
    counted AS (
        SELECT
            *,
            CASE
                WHEN has_changed_success THEN true
                WHEN (first <= last_mirrored) IS NOT TRUE THEN false
                ELSE {MANY} > (
                    SELECT count(*) FROM (
                        SELECT FROM mirror_attempt
                        WHERE branch_id = state.branch_id AND started_at > last_mirrored
                        ORDER BY started_at LIMIT {MANY}
                    ) since
                )
            END AS is_late,
            greatest(0, more_failures + CASE
                WHEN NOT has_new_success OR success_at < until THEN mirror_failures
                WHEN (success_at < last_mirror_attempt) IS NOT TRUE THEN 0
                ELSE (
                    SELECT CASE
                        WHEN count(*) < {MANY} THEN count(*) FILTER (WHERE outcome = 'failed')
                        ELSE mirror_failures - (
                            SELECT count(*) FROM mirror_attempt
                            WHERE branch_id = state.branch_id AND outcome = 'failed'
                                AND started_at <= success_at
                                AND started_at >
                                    coalesce(greatest(last_mirrored, until), '-infinity')
                        ) - CASE
                            WHEN (until > last_mirrored) IS NOT FALSE
                            THEN coalesce(pruned_failures, 0) ELSE 0
                        END
                    END
                    FROM (
                        SELECT outcome FROM mirror_attempt
                        WHERE branch_id = state.branch_id AND started_at > success_at
                        ORDER BY started_at LIMIT {MANY}
                    ) after
                )
            END) AS failures
        FROM state
    ),
    projected AS (
        UPDATE branch SET
            last_mirror_attempt = greatest(branch.last_mirror_attempt, latest),
            last_mirrored = success_at,
            last_mirrored_id = CASE WHEN has_new_success THEN revision_id ELSE last_mirrored_id END,
            mirror_failures = failures,
            mirror_status_message = CASE
                WHEN failures = 0 THEN NULL
                WHEN failed_at IS NULL THEN mirror_status_message
                WHEN (failed_at < branch.last_mirror_attempt) AND (
                    SELECT true FROM mirror_attempt
                    WHERE branch_id = counted.branch_id AND started_at > failed_at
                        AND outcome = 'failed'
                    ORDER BY started_at DESC LIMIT 1
                ) THEN mirror_status_message
                ELSE failure_reason
            END
        FROM counted WHERE id = branch_id AND NOT is_late
    )
"""

APPLY_ATTEMPTS = text(f"{_APPLY} SELECT branch_id FROM counted WHERE is_late")

# Fails if there is such a branch, for a transaction that ends without an answer in between.
APPLY_FEW = text(f"{_APPLY} SELECT 1 / CASE WHEN is_late THEN 0 ELSE 1 END FROM counted")
