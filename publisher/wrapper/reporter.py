"""Reports what a command did, if the spool lets it."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from mirrorfeed.contract.events import MirrorCompleted, MirrorFailed
from mirrorfeed.publisher.client import BranchStatusClient, reason_from

T = TypeVar("T")


class Reporter:
    """What cannot be reported is said, and nothing else happens: reporting must never be why
    something is not done."""

    def __init__(
        self, open_client: Callable[[], BranchStatusClient], say: Callable[[str], None]
    ) -> None:
        self._open_client = open_client
        self._say = say
        self._client: BranchStatusClient | None = None

    def attempt_started(self, branch_id: int) -> datetime:
        """A mirror attempt begins now. Returns when that is, reported or not."""
        now = datetime.now(UTC)
        what = f"branch {branch_id} began to be mirrored"
        return self.report(what, lambda client: client.begin_attempt(branch_id)) or now

    def attempt_ended(
        self, branch_id: int, started_at: datetime, failure: str | None, revision: str | None = None
    ) -> None:
        """The attempt completed, or failed for that reason."""

        def end(client: BranchStatusClient) -> None:
            if failure is None:
                client.end_attempt(MirrorCompleted(branch_id, started_at, revision))
            else:
                client.end_attempt(MirrorFailed(branch_id, started_at, reason_from(failure)))

        how = "was mirrored" if failure is None else "could not be mirrored"
        self.report(f"branch {branch_id} {how}", end)

    def script_ran(
        self, name: str, hostname: str, started_at: datetime, completed_at: datetime
    ) -> None:
        self.report(
            f"script {name} ran",
            lambda client: client.record_success(name, hostname, started_at, completed_at),
        )

    def report(self, what: str, call: Callable[[BranchStatusClient], T]) -> T | None:
        """What the call gives; None if it could not be made, which is said.

        Tries anew each time: the spool may be usable again when a long command ends."""
        try:
            if self._client is None:
                self._client = self._open_client()
            return call(self._client)
        except Exception as error:  # whatever it is, the command comes first
            self._say(f"could not report that {what}: {error or type(error).__name__}")
            return None
