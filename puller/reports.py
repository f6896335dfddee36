"""What the puller tells: every attempt and every pass, if the spool lets it."""

import threading
from collections.abc import Callable, Collection
from datetime import datetime

from mirrorfeed.contract.events import MirrorFailed
from mirrorfeed.publisher.client import BranchStatusClient, reason_from
from mirrorfeed.publisher.errors import PublisherError
from mirrorfeed.publisher.wrapper.reporter import Reporter

Say = Callable[[str], None]

SCRIPT = "branch-puller"
"""The name under which passes are reported: that of the original."""


class Reports:
    """Reports to one spool. Mirroring goes on whatever becomes of a report, so nothing here raises;
    what cannot be reported is said."""

    def __init__(self, open_client: Callable[[], BranchStatusClient], say: Say, host: str) -> None:
        self._client: BranchStatusClient | None = None
        self._say = say
        self._open_client = open_client
        self._opening = threading.Lock()
        self._reporter = Reporter(self._opened, say)
        self._host = host

    def _opened(self) -> BranchStatusClient:
        with self._opening:
            if self._client is None:
                self._client = self._open_client()
            return self._client

    def open(self) -> None:
        """Opens the spool now. If that cannot be used, it is said, and tried again later.

        Raises ValueError if the settings are wrong, such as the broker's URL.
        """
        try:
            self._opened()
        except (OSError, PublisherError) as error:
            self._say(f"nothing can be reported: {error}")

    def started(self, branch_id: int) -> datetime:
        """An attempt begins. Returns when that is."""
        return self._reporter.attempt_started(branch_id)

    def ended(
        self, branch_id: int, started_at: datetime, failure: str | None, revision: str | None
    ) -> None:
        self._reporter.attempt_ended(branch_id, started_at, failure, revision)

    def passed(self, began_at: datetime, ended_at: datetime) -> None:
        """A pass through the list has ended, whatever became of its branches."""
        self._reporter.script_ran(SCRIPT, self._host, began_at, max(began_at, ended_at))

    def open_attempts(self, among: Collection[int]) -> dict[int, datetime]:
        """Attempts that were begun and not ended, as far as the spool knows."""
        found = self._reporter.report(
            "earlier attempts were interrupted", lambda client: client.open_attempts()
        )
        return {each: at for each, at in (found or {}).items() if each in among}

    def interrupted(self, branch_id: int, started_at: datetime, reason: str) -> None:
        """An attempt of an earlier process has ended, nobody knows when."""
        event = MirrorFailed(branch_id, started_at, reason_from(reason))
        self._reporter.report(
            f"branch {branch_id} was interrupted", lambda client: client.end_attempt(event)
        )

    def close(self, *, flush_seconds: float) -> None:
        """Waits that long for what was reported to be sent. What was not stays in the spool."""
        if self._client is None:
            return
        if flush_seconds:
            seconds = flush_seconds
            self._reporter.report(
                "what was reported is sent", lambda client: client.flush(timeout_seconds=seconds)
            )
        self._client.close()
