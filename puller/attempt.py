"""One attempt to mirror one branch: lock, report, mirror, heal, report."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from mirrorfeed.puller.branch_list import Branch, Vcs
from mirrorfeed.puller.bzr_mirror import mirror_bzr
from mirrorfeed.puller.folder import BadLock, Folder, MirrorInUse, free_bytes, size_of
from mirrorfeed.puller.git import MARK, Git, Work
from mirrorfeed.puller.git_mirror import GitMirror
from mirrorfeed.puller.healing import heal, tidy
from mirrorfeed.puller.hook import run_hook
from mirrorfeed.puller.mirrored import Mirrored
from mirrorfeed.puller.process import Limits, Processes, end_marked
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure
from mirrorfeed.puller.reports import Reports
from mirrorfeed.puller.settings import Settings
from mirrorfeed.puller.state import BranchState
from mirrorfeed.puller.urls import place_of

MAX_HEALINGS = 3
SUSPICION = MirrorFailure(FailureClass.CORRUPT, "maintenance has found something corrupt")


class Outcome(Struct, kw_only=True):
    """What became of an attempt."""

    began_at: float
    """By the clock on the wall, in seconds since 1970."""
    seconds: float
    mirrored: Mirrored | None = None
    failure: MirrorFailure | None = None
    """Neither of both: somebody else mirrors the branch."""
    size_bytes: int | None = None
    """Of the mirror, if that was looked at."""
    healed_at: float = 0.0
    held_by: str | None = None
    """Who mirrors the branch instead."""


class Attempts:
    """Mirrors branches, one per call, in any number of threads."""

    def __init__(
        self, folder: Folder, settings: Settings, reports: Reports, processes: Processes
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._reports = reports
        self._processes = processes

    def attempt(
        self,
        branch: Branch,
        known: BranchState,
        *,
        is_forced: bool = False,
        on_progress: Callable[[bytes], None] = lambda _: None,
    ) -> Outcome:
        """Mirrors the branch, and reports how that began and ended.

        `known` is what earlier attempts have left. Raises only what is a bug, having reported that
        the attempt failed.
        """
        began = time.monotonic()
        outcome = Outcome(began_at=time.time(), seconds=0.0, healed_at=known.healed_at)
        try:
            with only_user_of(self._folder, branch.id) as lock:
                started_at = self._reports.started(branch.id)
                failure: MirrorFailure | None = MirrorFailure(
                    FailureClass.OTHER, "the puller itself failed"
                )
                try:
                    work = self._work(branch, lock, on_progress)
                    outcome.mirrored = self._mirror(branch, known, outcome, work, is_forced)
                    failure = None
                except MirrorFailure as error:
                    failure = error
                except OSError as error:
                    failure = failure_of(error)
                finally:
                    outcome.failure = failure
                    revision = outcome.mirrored.revision if outcome.mirrored else None
                    self._reports.ended(
                        branch.id, started_at, failure.reason if failure else None, revision
                    )
                if outcome.mirrored and outcome.mirrored.has_changed and self._settings.hook:
                    run_hook(
                        self._settings,
                        branch,
                        self._mirror_of(branch),
                        work,
                        old_revision=known.revision,
                        new_revision=outcome.mirrored.revision,
                    )
        except MirrorInUse as error:
            outcome.held_by = str(error)
        except BadLock as error:
            outcome.failure = MirrorFailure(failure_of(error.error).failure_class, str(error))
            started_at = self._reports.started(branch.id)
            self._reports.ended(branch.id, started_at, outcome.failure.reason, None)
        outcome.seconds = time.monotonic() - began
        return outcome

    def _work(self, branch: Branch, lock: int, on_progress: Callable[[bytes], None]) -> Work:
        seconds = self._settings.timeout_seconds
        limits = Limits(self._settings.stall_seconds, time.monotonic() + seconds, seconds)
        watch = DiskWatch(self._folder, self._settings, branch)
        return Work(
            processes=self._processes,
            limits=limits,
            lock=lock,
            mark=mark_of(self._folder, branch.id),
            check_room=watch.check_room,
            watch=watch.look,
            on_progress=on_progress,
            accept=lambda path: self._check_size(size_of(path)),
        )

    def _mirror_of(self, branch: Branch) -> Path:
        return self._folder.mirror(branch.id, branch.vcs)

    def _mirror(
        self, branch: Branch, known: BranchState, outcome: Outcome, work: Work, is_forced: bool
    ) -> Mirrored:
        place_of(branch.url, branch.vcs, self._settings.protocols)
        mirror = self._mirror_of(branch)
        try:
            if branch.vcs is Vcs.BZR:
                mirrored = mirror_bzr(branch, self._folder, self._settings, work)
            else:
                mirrored = self._mirror_git(branch, known, outcome, work, is_forced)
        except MirrorFailure:
            if mirror.exists() and branch.vcs is Vcs.GIT:
                tidy(mirror)  # what was ended in the middle
            raise
        if mirrored.has_changed or not known.size_bytes:
            outcome.size_bytes = size_of(mirror)
        self._check_size(outcome.size_bytes or known.size_bytes)
        return mirrored

    def _mirror_git(
        self, branch: Branch, known: BranchState, outcome: Outcome, work: Work, is_forced: bool
    ) -> Mirrored:
        git = Git(self._settings, work)
        mirror = GitMirror(git, self._folder, branch, work)
        known_url = known.url or branch.url
        if known.is_suspect:
            self._heal(SUSPICION, mirror, git, outcome)
        for _ in range(MAX_HEALINGS):
            try:
                return mirror.mirror(known_url=known_url, is_forced=is_forced)
            except MirrorFailure as failure:
                if not self._heal(failure, mirror, git, outcome):
                    raise
        return mirror.mirror(known_url=known_url, is_forced=is_forced)

    def _heal(self, failure: MirrorFailure, mirror: GitMirror, git: Git, outcome: Outcome) -> bool:
        """Whether it is of use to try once more."""
        healed_at = heal(
            failure, mirror=mirror, git=git, folder=self._folder, healed_at=outcome.healed_at
        )
        outcome.healed_at = healed_at or outcome.healed_at
        return healed_at is not None

    def _check_size(self, size_bytes: int) -> None:
        if 0 < self._settings.max_mirror_bytes < size_bytes:
            raise too_large(size_bytes, self._settings.max_mirror_bytes)


class DiskWatch:
    """Looks after the disk while a branch is mirrored, and tells how much there is of its mirror,
    which grows as long as something arrives."""

    def __init__(self, folder: Folder, settings: Settings, branch: Branch) -> None:
        self._folder = folder
        self._settings = settings
        self._places = (folder.mirror(branch.id, branch.vcs), folder.incoming(branch.id))

    def check_room(self) -> None:
        """Raises MirrorFailure (`disk-full`)."""
        free = free_bytes(self._folder.path)
        if free < self._settings.keep_free_bytes:
            raise MirrorFailure(
                FailureClass.DISK_FULL,
                f"{free:,} bytes are left on the disk of {self._folder.path}, and"
                f" {self._settings.keep_free_bytes:,} are kept free (--keep-free-bytes)",
            )

    def look(self) -> int:
        """Raises MirrorFailure (`disk-full`, `too-large`)."""
        self.check_room()
        size = sum(size_of(place / part) for place in self._places for part in ("objects", ".bzr"))
        if 0 < self._settings.max_mirror_bytes < size:
            raise too_large(size, self._settings.max_mirror_bytes)
        return size


def too_large(size_bytes: int, limit_bytes: int) -> MirrorFailure:
    return MirrorFailure(
        FailureClass.TOO_LARGE,
        f"the mirror takes {size_bytes:,} bytes, and at most {limit_bytes:,} are allowed"
        " (--max-mirror-bytes)",
    )


def failure_of(error: OSError) -> MirrorFailure:
    """What an error of the system says of an attempt."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    failure_class = FailureClass.DISK_FULL if is_full else FailureClass.OTHER
    where = f": {error.filename}" if error.filename else ""
    return MirrorFailure(failure_class, f"{error.strerror or error}{where}")


@contextmanager
def only_user_of(folder: Folder, branch_id: int) -> Iterator[int]:
    """As `Folder.only_user_of`. But if the lock is held only by what a puller has started that was
    killed, that is ended first."""
    with ExitStack() as held:
        try:
            lock = held.enter_context(folder.only_user_of(branch_id))
        except MirrorInUse as error:
            if error.is_alive:
                raise
            end_marked(MARK, mark_of(folder, branch_id))
            lock = held.enter_context(folder.only_user_of(branch_id))
        yield lock


def mark_of(folder: Folder, branch_id: int) -> str:
    """What the programs of an attempt are marked with."""
    return f"{branch_id}:{folder.path}"
