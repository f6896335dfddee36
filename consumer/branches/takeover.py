"""Taking over branches with the mirror state they had in another system.

A branch row is a pure function of its attempts. So the known state is expressed as attempts that
lead to it, and whatever happens after the move continues from there.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from msgspec import Struct
from sqlalchemy import Connection, select

from mirrorfeed.consumer.apply.projection import (
    Attempt,
    lock_branches,
    project_branches,
    upsert_attempts,
)
from mirrorfeed.consumer.tables import MirrorAttempt
from mirrorfeed.contract.events import (
    MAX_REASON_LENGTH,
    MAX_REVISION_LENGTH,
    InvalidEvent,
    check_text,
    normalise_instant,
    shown,
)

MAX_FAILURES = 100_000
UNKNOWN_REASON = "failed before the branch was taken over; the reason is not known"
STEP = timedelta(microseconds=1)


class KnownState(Struct, frozen=True):
    """The mirror columns of a branch as another system had them.

    Raises InvalidEvent for a state that no history of attempts could have led to.
    """

    last_mirror_attempt: datetime | None = None
    last_mirrored: datetime | None = None
    last_mirrored_id: str | None = None
    mirror_failures: int = 0
    mirror_status_message: str | None = None

    def __post_init__(self) -> None:
        for field in ("last_mirror_attempt", "last_mirrored"):
            if getattr(self, field) is not None:
                normalise_instant(self, field)
        if self.last_mirrored_id is not None:
            check_text("last_mirrored_id", self.last_mirrored_id, at_most=MAX_REVISION_LENGTH)
        if self.mirror_status_message is not None:
            message = self.mirror_status_message
            check_text("mirror_status_message", message, at_most=MAX_REASON_LENGTH)
        if not 0 <= self.mirror_failures <= MAX_FAILURES:
            raise InvalidEvent(
                f"mirror_failures must be from 0 to {MAX_FAILURES}, got {self.mirror_failures}"
            )
        if problem := self._contradiction():
            raise InvalidEvent(problem)

    def _contradiction(self) -> str | None:
        latest, success = self.last_mirror_attempt, self.last_mirrored
        if success is None and self.last_mirrored_id is not None:
            return "last_mirrored_id is given without last_mirrored"
        if self.mirror_status_message is not None and not self.mirror_failures:
            return "mirror_status_message is given, but mirror_failures is 0"
        if latest is None:
            if success is not None or self.mirror_failures:
                return "last_mirror_attempt is missing, but an attempt succeeded or failed"
            return None
        if success is not None and success > latest:
            return f"last_mirrored {shown(str(success))} is after last_mirror_attempt"
        if success is not None and success > latest - self.mirror_failures * STEP:
            return (
                f"there is no room for {self.mirror_failures} failures between last_mirrored and"
                " last_mirror_attempt"
            )
        return None

    def attempts(self, branch_id: int) -> list[Attempt]:
        """A history that leads to this state. Only the latest failure has its real time."""
        latest, success = self.last_mirror_attempt, self.last_mirrored
        history: list[Attempt] = []
        if success is not None:
            revision = self.last_mirrored_id
            history.append(Attempt(branch_id, success, success, "completed", revision_id=revision))
        if latest is None or latest == success:
            return history
        if not self.mirror_failures:
            return [*history, Attempt(branch_id, latest)]
        for before in reversed(range(self.mirror_failures)):
            started_at = latest - before * STEP
            reason = UNKNOWN_REASON if before else self.mirror_status_message
            history.append(
                Attempt(branch_id, started_at, started_at, "failed", failure_reason=reason)
            )
        return history


def take_over(connection: Connection, states: Mapping[int, KnownState]) -> int:
    """Gives registered branches the state they had elsewhere, and returns how many took one over.

    A branch that already has attempts keeps what they say.
    """
    lock_branches(connection, states.keys())
    with_attempts = set(
        connection.scalars(
            select(MirrorAttempt.branch_id)
            .where(MirrorAttempt.branch_id.in_(states.keys()))
            .distinct()
        )
    )
    taken = sorted(states.keys() - with_attempts)
    attempts = [attempt for branch_id in taken for attempt in states[branch_id].attempts(branch_id)]
    upsert_attempts(connection, attempts)
    project_branches(connection, taken)
    return len({attempt.branch_id for attempt in attempts})
