"""BranchStatusClient: a call becomes an event in the spool."""

import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

from msgspec.structs import replace
from platformdirs import user_state_path

from mirrorfeed.contract import environment
from mirrorfeed.contract.events import (
    MAX_REASON_LENGTH,
    MirrorCompleted,
    MirrorFailed,
    MirrorStarted,
    ScriptRun,
    check_branch_id,
)
from mirrorfeed.contract.secrets import masked_start
from mirrorfeed.publisher.errors import AttemptNotStarted, SpoolError
from mirrorfeed.publisher.spool import DEFAULT_LIMIT_BYTES, Spool, SpoolStatus
from mirrorfeed.publisher.spool_batch import LatestAttempt, SpoolWriter
from mirrorfeed.publisher.spool_connection import BUSY_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from mirrorfeed.publisher.forward.forwarder import Forwarder

SYSTEM_SPOOL = Path("/var/spool/mirrorfeed/spool.db")
CLOCK_STEP_TOLERANCE = timedelta(hours=1)
POLL_SECONDS = 0.1
"""How often `flush` looks at the spool when this client does not forward it."""


def default_spool_path() -> Path:
    """The system's spool if this user may write there, else one in the user's state folder.

    Raises SpoolError if the user has no folders."""
    if os.access(SYSTEM_SPOOL.parent, os.W_OK):
        return SYSTEM_SPOOL
    homeless = SpoolError(
        "there is no place for a spool: this user has no home folder, and may not write to"
        f" {SYSTEM_SPOOL.parent}; name a spool with {environment.SPOOL}"
    )
    try:
        path = user_state_path("mirrorfeed") / "spool.db"
    except RuntimeError as error:  # so a new version of platformdirs says it
        raise homeless from error
    if not path.is_absolute():  # and so an old one
        raise homeless
    return path


@dataclass
class CurrentAttempt:
    """One attempt inside `BranchStatusClient.mirroring`; set `revision_id` when it is known."""

    branch_id: int
    started_at: datetime
    revision_id: str | None = None


class BranchStatusClient:
    """Reports what a puller does. A call returns once the event is durable in the spool.

    Only `flush` waits for the network: a forwarder thread sends what is in the spool. It begins
    with what earlier processes left there; what it could not send stays there for later ones.

    Safe to use from several threads, and in the child after a fork. As a context manager it closes
    itself at the end.

    Every method raises InvalidEvent for a bad argument, SpoolFull if there is no room and
    SpoolError if the spool cannot be used. An event was taken if and only if nothing was raised,
    except that one may be sent although its call raised if the disk failed to write it.
    """

    def __init__(
        self,
        spool: str | os.PathLike[str] | None = None,
        amqp_url: str | None = None,
        *,
        limit_bytes: int | None = None,
        forward: bool = True,
        gather_seconds: float = 0.0,
    ) -> None:
        """Arguments that are not given come from the environment: MIRRORFEED_SPOOL,
        MIRRORFEED_AMQP_URL (or the file named by MIRRORFEED_AMQP_URL_FILE; separate several URLs
        with commas) and MIRRORFEED_SPOOL_LIMIT_BYTES, the size at which the spool takes no more
        events (default 1 GiB).

        With `forward=False` nothing is sent: another process, such as `mirror-publisher forward`,
        sends what is in the spool. With `gather_seconds` events are sent together, at most that
        much later, which costs less where there are many; `flush` does not wait for that.

        Raises ValueError for an AMQP URL that cannot be used, and for negative `gather_seconds`.
        """
        _check_seconds("gather_seconds", gather_seconds)
        path = Path(spool or os.environ.get(environment.SPOOL) or default_spool_path())
        limit = limit_bytes or os.environ.get(environment.SPOOL_LIMIT_BYTES) or DEFAULT_LIMIT_BYTES
        self._forwarder: Forwarder | None = None
        if forward:
            # A command that only spools should not wait for pika to be imported.
            from mirrorfeed.publisher.forward import forwarder

            url = (
                amqp_url
                or os.environ.get(environment.AMQP_URL)
                or environment.in_file(environment.AMQP_URL)
                or environment.DEFAULT_AMQP_URL
            )
            self._forwarder = forwarder.Forwarder(
                path.absolute(), url, gather_seconds=gather_seconds
            )
        # Last, as it alone opens something: what raises before has left nothing open.
        self._spool = Spool(path, limit_bytes=int(limit))
        if self._forwarder is not None:
            self._stop_forwarder = weakref.finalize(self, self._forwarder.stop)
            self._forwarder.wake()

    def start_mirroring(self, branch_id: int) -> None:
        """A mirror attempt of the branch begins now."""
        self.begin_attempt(branch_id)

    def mirror_complete(self, branch_id: int, revision_id: str | None) -> None:
        """The branch's open attempt succeeded. Raises AttemptNotStarted if none is open."""
        check_branch_id(branch_id)
        with self._spool.writing() as writer:
            attempt = writer.latest_attempt(branch_id)
            if attempt is None or not attempt.is_open:
                raise AttemptNotStarted(
                    f"branch {branch_id} has no attempt under way in the spool {self._spool.path}:"
                    " report its start when its mirroring begins"
                )
            event = MirrorCompleted(branch_id, attempt.started_at, revision_id)
            _append_outcome(writer, event, datetime.now(UTC), attempt)
        self._wake_forwarder()

    def mirror_failed(self, branch_id: int, reason: str) -> None:
        """The branch's open attempt failed. If none is open, an attempt failed as it began.

        Passwords in URLs in `reason` are masked.
        """
        check_branch_id(branch_id)
        with self._spool.writing() as writer:
            attempt = writer.latest_attempt(branch_id)
            if attempt is not None and attempt.is_open:
                started_at, failed_at = attempt.started_at, datetime.now(UTC)
            else:
                started_at = failed_at = _start_after(attempt)
            event = MirrorFailed(branch_id, started_at, reason)
            event = replace(event, reason=reason_from(reason))
            _append_outcome(writer, event, failed_at, attempt)
        self._wake_forwarder()

    def record_success(
        self, name: str, hostname: str, started: datetime, completed: datetime
    ) -> None:
        """The script `name` ran on `hostname` and ended normally. Naive datetimes are refused."""
        event = ScriptRun(name, hostname, started, completed)
        with self._spool.writing() as writer:
            writer.append(event, occurred_at=completed)
        self._wake_forwarder()

    @contextmanager
    def mirroring(self, branch_id: int) -> Iterator[CurrentAttempt]:
        """Reports the start of an attempt and, when the block ends, how it ended.

        An exception in the block is reported as a failure, with its text as the reason, and is
        raised again.
        """
        attempt = CurrentAttempt(branch_id, self.begin_attempt(branch_id))
        try:
            yield attempt
            outcome = MirrorCompleted(branch_id, attempt.started_at, attempt.revision_id)
        except BaseException as error:
            reason = reason_from(str(error) or type(error).__name__)
            self.end_attempt(MirrorFailed(branch_id, attempt.started_at, reason))
            raise
        self.end_attempt(outcome)

    def begin_attempt(self, branch_id: int) -> datetime:
        """A mirror attempt of the branch begins now; returns when, by which `end_attempt` knows it.
        `mirroring` does both."""
        check_branch_id(branch_id)
        with self._spool.writing() as writer:
            started_at = _start_after(writer.latest_attempt(branch_id))
            writer.append(MirrorStarted(branch_id, started_at), occurred_at=started_at)
            writer.record_attempt(branch_id, LatestAttempt(started_at, is_open=True))
        self._wake_forwarder()
        return started_at

    def end_attempt(self, outcome: MirrorCompleted | MirrorFailed) -> None:
        """The attempt that began at `outcome.started_at` ended, even if its start was not taken."""
        with self._spool.writing() as writer:
            latest = writer.latest_attempt(outcome.branch_id)
            _append_outcome(writer, outcome, datetime.now(UTC), latest)
        self._wake_forwarder()

    def open_attempts(self) -> dict[int, datetime]:
        """Attempts that have begun and not ended, by branch, with when they began: those under way,
        and those whose puller was killed."""
        return self._spool.open_attempts()

    @contextmanager
    def group_commit(self, *, timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> Iterator[None]:
        """Calls in this thread inside the block are durable once it has ended: together they wait
        for the disk once. Each succeeds or fails by itself, but if the block raises, none is taken.

        Raises SpoolBusy, before the block begins, if somebody else keeps writing to the spool for
        `timeout_seconds`.
        """
        with self._spool.group_commit(timeout_seconds=timeout_seconds):
            yield
        self._wake_forwarder()

    startMirroring = start_mirroring
    mirrorComplete = mirror_complete
    mirrorFailed = mirror_failed
    recordSuccess = record_success

    def status(self) -> SpoolStatus:
        """The account of the spool: how many events it took, and what became of them.

        It covers all processes that use the spool.
        """
        return self._spool.status()

    def flush(self, *, timeout_seconds: float) -> bool:
        """Waits until the broker has confirmed all events that were spooled before the call.

        Returns True once it has, or False if `timeout_seconds` pass first. It does not matter
        which process spooled the events, or which one sends them. If the broker has refused one of
        them for good, returns False as soon as all others are confirmed: `status().refused` is then
        not 0, and `mirror-publisher forward --retry-refused` tries again.

        Raises ValueError for a negative timeout, and SpoolError inside `group_commit` or if the
        spool is removed or replaced meanwhile.
        """
        _check_seconds("timeout_seconds", timeout_seconds)
        deadline = time.monotonic() + timeout_seconds
        account = self._spool.status()
        self._wake_forwarder()
        while True:
            forwarder = self._forwarder
            seen = forwarder.removals if forwarder else 0
            is_pending, is_refused = self._spool.unconfirmed(
                source=account.source, until=account.spooled
            )
            if not is_pending:
                return not is_refused
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                return False
            if forwarder:
                forwarder.wait_for_removal(seen=seen, timeout_seconds=left_seconds)
            else:
                time.sleep(min(left_seconds, POLL_SECONDS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops forwarding and closes the spool; events not sent yet stay in it."""
        if self._forwarder is not None:
            self._stop_forwarder()
            self._forwarder = None
        self._spool.close()

    def _wake_forwarder(self) -> None:
        if self._forwarder is not None:
            self._forwarder.wake()


def _check_seconds(name: str, value: float) -> None:
    if not value >= 0:  # so written, it refuses NaN too
        raise ValueError(f"{name} must be 0 or more, not {value!r}")


def _start_after(latest: LatestAttempt | None) -> datetime:
    """Now, but later than the branch's latest start even if the clock was set back a little since:
    readers take the attempt with the latest start for the newest."""
    now = datetime.now(UTC)
    if latest and timedelta(0) <= latest.started_at - now < CLOCK_STEP_TOLERANCE:
        return latest.started_at + timedelta(microseconds=1)
    return now


def _append_outcome(
    writer: SpoolWriter,
    event: MirrorCompleted | MirrorFailed,
    ended_at: datetime,
    latest: LatestAttempt | None,
) -> None:
    """If the clock was set back, the attempt ended when it began, not before."""
    writer.append(event, occurred_at=max(ended_at, event.started_at))
    if latest is None or latest.started_at <= event.started_at:
        writer.record_attempt(event.branch_id, LatestAttempt(event.started_at, is_open=False))


def reason_from(text: str) -> str:
    """The text as an event can hold it: secrets masked, bad characters dropped, cut to fit."""
    storable = text[: 4 * MAX_REASON_LENGTH].replace("\0", "").encode(errors="replace").decode()
    return masked_start(storable, MAX_REASON_LENGTH)
