"""How a puller is, counted by its loop for threads that are asked about it."""

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct

from mirrorfeed.puller.branch_list import Branch
from mirrorfeed.puller.state import BranchState


class Totals:
    """What became of the attempts so far."""

    def __init__(self) -> None:
        self.mirrored = 0
        self.failed = 0
        self.interrupted = 0

    @property
    def is_all_well(self) -> bool:
        return self.failed == 0 and self.interrupted == 0


class Figures(Struct, frozen=True, kw_only=True):
    """At one moment."""

    running: int = 0
    due: int = 0
    """How many branches could be mirrored now, if there were places."""
    waiting: int = 0
    """How many are not due yet."""
    overdue_seconds: float = 0.0
    """Since when the branch is due that has been for longest."""
    failing: Mapping[str, int] = {}
    """How many branches' last attempt failed, by the class of the failure."""
    paused_hosts: int = 0
    size_bytes: int = 0


def figures_of(
    branches: Iterable[Branch],
    known: Mapping[int, BranchState],
    due_at: Mapping[int, float],
    *,
    running: int,
    paused_hosts: int,
    now: float,
) -> Figures:
    """`due_at` is when each branch is due that is not being mirrored, by the clock of `now`."""
    failing: Counter[str] = Counter()
    size_bytes = 0
    for branch in branches:
        if state := known.get(branch.id):
            size_bytes += state.size_bytes
            if state.failure_class:
                failing[state.failure_class] += 1
    due = [at for at in due_at.values() if at <= now]
    return Figures(
        running=running,
        due=len(due),
        waiting=len(due_at) - len(due),
        overdue_seconds=now - min(due, default=now),
        failing=failing,
        paused_hosts=paused_hosts,
        size_bytes=size_bytes,
    )
