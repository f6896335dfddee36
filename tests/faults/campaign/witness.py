"""Watches while faults happen: what a reader of the branch table sees, and how much memory goes."""

import time
from collections import defaultdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer import Branch
from tests.faults.campaign.background import Background
from tests.faults.campaign.stand import Stand
from tests.reference import BranchState

POLL_SECONDS = 0.2
BRANCHES = select(
    Branch.id,
    Branch.last_mirror_attempt,
    Branch.last_mirrored,
    Branch.last_mirrored_id,
    Branch.mirror_failures,
    Branch.mirror_status_message,
)


def state_of(row: Any) -> tuple[int, BranchState]:
    """A branch's number and state, from a row of BRANCHES."""
    branch_id, *columns = row
    return branch_id, BranchState(*columns)


class Witness(Background):
    """Sees states, memory and stalls."""

    def __init__(self, stand: Stand) -> None:
        super().__init__("witness")
        self._stand = stand
        self.seen: dict[int, list[BranchState]] = defaultdict(list)
        """Each branch's states, in the order in which they were seen, without repetitions."""
        self.megabytes: dict[str, list[float]] = defaultdict(list)
        """Each service's resident memory."""
        self.longest_stall_seconds = 0.0
        """The longest time in which calls returned, and no reader saw anything new."""

    def most_megabytes(self) -> dict[str, float]:
        """The most that any worker and any puller had, in the first and the second half."""
        most: dict[str, float] = {}
        for name, megabytes in self.megabytes.items():
            middle = len(megabytes) // 2
            for half, part in (("first", megabytes[:middle]), ("second", megabytes[middle:])):
                key = f"{name.rstrip('-0123456789')}s, {half} half"
                most[key] = max(most.get(key, 0.0), *part)
        return dict(sorted(most.items()))

    def _work(self) -> None:
        reported, waiting_since = 0, None
        while not self._stopping.wait(POLL_SECONDS):
            for service in self._stand.services:
                if (megabytes := service.resident_megabytes) is not None:
                    self.megabytes[service.name].append(megabytes)
            now = time.monotonic()
            if self._look():
                reported, waiting_since = self._stand.reported, None
            elif waiting_since is None and self._stand.reported > reported:
                waiting_since = now
            elif waiting_since is not None:
                self.longest_stall_seconds = max(self.longest_stall_seconds, now - waiting_since)

    def _look(self) -> bool:
        """Whether there was anything new."""
        engine = self._stand.engine
        try:
            with engine.connect() as connection:
                found = connection.execute(BRANCHES).all()
        except DBAPIError:  # it is being killed
            engine.dispose()
            return False
        is_new = False
        for row in found:
            branch_id, state = state_of(row)
            seen = self.seen[branch_id]
            if not seen or seen[-1] != state:
                seen.append(state)
                is_new = True
        return is_new
