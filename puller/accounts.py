"""What becomes of attempts: what is noted of each, what the log says, and what is due then."""

import logging
from collections.abc import Iterable, Mapping

from mirrorfeed.puller.attempt import Outcome
from mirrorfeed.puller.branch_list import Branch
from mirrorfeed.puller.reasons import FailureClass
from mirrorfeed.puller.schedule import Known, due_by_the_clock
from mirrorfeed.puller.settings import Settings
from mirrorfeed.puller.state import BranchState

logger = logging.getLogger(__name__)


def note(known: BranchState, branch: Branch, outcome: Outcome) -> None:
    """Writes down what became of an attempt."""
    if outcome.held_by:
        return
    known.name = branch.name
    known.attempted_at = outcome.began_at + outcome.seconds
    known.healed_at = outcome.healed_at
    if outcome.size_bytes is not None:
        known.size_bytes = outcome.size_bytes
    failure = outcome.failure
    known.failure_class = str(failure.failure_class) if failure else None
    known.reason = failure.reason if failure else None
    if outcome.mirrored:
        known.is_suspect = False
        known.maintained_at = known.maintained_at or outcome.began_at
        known.url = branch.url
        known.mirrored_at = outcome.began_at
        known.failures = 0
        known.revision = outcome.mirrored.revision
        known.digest = outcome.mirrored.digest
        if outcome.mirrored.has_changed:
            known.changed_at = outcome.began_at
    elif failure and failure.failure_class is not FailureClass.INTERRUPTED:
        known.failures += 1


def log_outcome(branch: Branch, outcome: Outcome) -> None:
    """One line an attempt."""
    fields: dict[str, object] = {
        "branch": branch.id,
        "branch_name": branch.name,
        "seconds": round(outcome.seconds, 3),
    }
    if outcome.held_by:
        logger.info("left alone", extra={**fields, "because": outcome.held_by})
    elif outcome.failure:
        logger.warning("failed", extra={**fields, "because": outcome.failure.reason})
    elif outcome.mirrored:
        what = "fetched" if outcome.mirrored.has_changed else "as it was"
        logger.info(what, extra={**fields, "revision": outcome.mirrored.revision})


def due_now(
    branches: Iterable[Branch], known: Mapping[int, BranchState], settings: Settings, wall: float
) -> list[tuple[float, Branch]]:
    """Which branches are due by the clock, the one that has been for longest first."""
    found = []
    for branch in branches:
        state = known.get(branch.id)
        due = due_by_the_clock(
            Known(state.due_at, state.attempted_at) if state else None,
            wall,
            branch.interval_seconds or settings.interval_seconds,
            state.failures if state else 0,
            lambda _, high: high,
        )
        if due.due_at <= wall:
            found.append((due.due_at, branch))
    return sorted(found, key=lambda each: (each[0], each[1].id))
