"""`git maintenance` for mirrors that have changed: one at a time, beside the attempts."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mirrorfeed.puller.branch_list import Branch, Vcs
from mirrorfeed.puller.folder import BadLock, Folder, MirrorInUse, size_of
from mirrorfeed.puller.git import Git, Work
from mirrorfeed.puller.healing import borrowers_of, tidy
from mirrorfeed.puller.process import Limits, Processes
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure
from mirrorfeed.puller.settings import Settings
from mirrorfeed.puller.state import BranchState

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""How often to look for a mirror that needs it."""
TASKS = ("--task=pack-refs", "--task=loose-objects", "--task=incremental-repack")
"""What makes a mirror small and fast without deleting anything that is in it."""
GC = ("--task=gc",)
"""This also deletes what nothing refers to any more, so no other mirror may borrow it."""


class Maintained(NamedTuple):
    """A mirror that was maintained."""

    branch_id: int
    size_bytes: int
    is_corrupt: bool


SUSPICIOUS = (FailureClass.CORRUPT, FailureClass.OTHER)


class Maintenance:
    """Has a thread of its own, and locks each mirror as an attempt does."""

    def __init__(self, folder: Folder, settings: Settings, on_end: Callable[[], None]) -> None:
        """Calls `on_end` in its thread when there is something `finished`."""
        self._folder = folder
        self._settings = settings
        self._on_end = on_end
        self._processes = Processes()
        self._threads = ThreadPoolExecutor(1, "maintenance")
        self._current: Future[Maintained | None] | None = None
        self._looked_at = 0.0

    @property
    def is_running(self) -> bool:
        return self._current is not None and not self._current.done()

    def start_next(
        self,
        branches: Iterable[Branch],
        known: Mapping[int, BranchState],
        running: Collection[int],
    ) -> None:
        """Begins with the mirror that has waited for longest, unless another is under way."""
        now = time.monotonic()
        every = self._settings.maintenance_seconds
        if self._current or not every or now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        before = time.time() - every
        waiting = [
            (state.maintained_at, branch.id)
            for branch in branches
            if branch.vcs is Vcs.GIT
            and branch.id not in running
            and (state := known.get(branch.id))
            and state.maintained_at <= before
            and state.maintained_at < state.changed_at
        ]
        if waiting:
            branch_id = min(waiting)[1]
            self._current = self._threads.submit(self._maintain, branch_id)
            self._current.add_done_callback(lambda _: self._on_end())

    def finished(self) -> Maintained | None:
        """What was maintained since this was asked last."""
        if self._current is None or not self._current.done():
            return None
        done, self._current = self._current, None
        try:
            return done.result()
        except Exception:
            logger.exception("maintenance itself failed")
            return None

    def interrupt(self) -> None:
        """Ends the one that is under way, and lets none start."""
        self._processes.interrupt()

    def close(self) -> None:
        self._threads.shutdown()
        self._processes.close()

    def _maintain(self, branch_id: int) -> Maintained | None:
        """None if somebody else uses the mirror, or it was interrupted. A failure is logged, and
        counts as maintained: the mirror's next turn is its next."""
        mirror = self._folder.mirror(branch_id, Vcs.GIT)
        began = time.monotonic()
        is_corrupt = False
        try:
            with self._folder.only_user_of(branch_id) as lock:
                size = size_of(mirror)
                try:
                    self._run(mirror, lock)
                except MirrorFailure as failure:
                    if failure.failure_class is FailureClass.INTERRUPTED:
                        return None
                    # git has many words for it; `git fsck` decides before anything is done.
                    is_corrupt = failure.failure_class in SUSPICIOUS
                    tidy(mirror)
                    logger.warning(
                        "maintenance failed",
                        extra={"branch": branch_id, "because": failure.reason},
                    )
                now = size_of(mirror)
        except MirrorInUse:
            return None
        except (BadLock, OSError) as error:
            logger.error("maintenance failed", extra={"branch": branch_id, "because": error})
            return Maintained(branch_id, size_of(mirror), is_corrupt)
        logger.info(
            "maintained",
            extra={
                "branch": branch_id,
                "seconds": round(time.monotonic() - began, 1),
                "bytes_before": size,
                "bytes": now,
            },
        )
        return Maintained(branch_id, now, is_corrupt)

    def _run(self, mirror: Path, lock: int) -> None:
        """Raises MirrorFailure."""
        seconds = self._settings.timeout_seconds
        limits = Limits(seconds, time.monotonic() + seconds, seconds)
        work = Work(processes=self._processes, limits=limits, lock=lock, mark="maintenance")
        tasks = TASKS if borrowers_of(mirror, self._folder) else GC
        Git(self._settings, work).output(mirror, "maintenance", "run", "--quiet", *tasks)
