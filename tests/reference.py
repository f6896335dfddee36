"""The plainest way to compute branch states from events, in memory: what tests compare with."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from mirrorfeed.contract.events import Envelope, MirrorCompleted, MirrorEvent, MirrorFailed


@dataclass(frozen=True)
class BranchState:
    last_mirror_attempt: datetime | None = None
    last_mirrored: datetime | None = None
    last_mirrored_id: str | None = None
    mirror_failures: int = 0
    mirror_status_message: str | None = None


def fold(history: Iterable[Envelope]) -> dict[int, BranchState]:
    """Each branch's state after a history."""
    attempts: dict[int, dict[datetime, list[Envelope]]] = {}
    for envelope in history:
        event = envelope.event
        if isinstance(event, MirrorEvent):
            ends = attempts.setdefault(event.branch_id, {}).setdefault(event.started_at, [])
            if isinstance(event, MirrorCompleted | MirrorFailed):
                ends.append(envelope)
    return {branch_id: _state(each) for branch_id, each in attempts.items()}


def _state(attempts: dict[datetime, list[Envelope]]) -> BranchState:
    outcomes = {start: max(ends, key=_precedence).event for start, ends in attempts.items() if ends}
    successes = [start for start, end in outcomes.items() if isinstance(end, MirrorCompleted)]
    last_mirrored = max(successes, default=None)
    last_success = outcomes[last_mirrored] if last_mirrored else None
    latest_end = outcomes[max(outcomes)] if outcomes else None
    return BranchState(
        last_mirror_attempt=max(attempts),
        last_mirrored=last_mirrored,
        last_mirrored_id=(
            last_success.revision_id if isinstance(last_success, MirrorCompleted) else None
        ),
        mirror_failures=sum(
            isinstance(end, MirrorFailed) and (last_mirrored is None or start > last_mirrored)
            for start, end in outcomes.items()
        ),
        mirror_status_message=latest_end.reason if isinstance(latest_end, MirrorFailed) else None,
    )


def _precedence(end: Envelope) -> tuple[datetime, bool, bool, str]:
    """The later outcome holds; then completed; then the one whose text sorts last."""
    event = end.event
    text = event.revision_id if isinstance(event, MirrorCompleted) else getattr(event, "reason", "")
    return end.time, isinstance(event, MirrorCompleted), text is not None, text or ""
