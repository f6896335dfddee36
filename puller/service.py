"""The puller at work: one loop that decides, and threads that mirror.

Only the loop touches the queue and the notes. It waits for what happens: an attempt ends, a signal
comes, a branch is due, the list changes.
"""

import logging
import os
import random
import select
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from mirrorfeed.puller.accounts import log_outcome, note
from mirrorfeed.puller.attempt import Attempts, Outcome
from mirrorfeed.puller.branch_list import Branch, BranchList, file_state, read_branch_list
from mirrorfeed.puller.errors import BadBranchList, PullerError
from mirrorfeed.puller.figures import Figures, Totals, figures_of
from mirrorfeed.puller.folder import Folder
from mirrorfeed.puller.leftovers import close_leftovers
from mirrorfeed.puller.maintenance import Maintenance
from mirrorfeed.puller.process import Processes
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure
from mirrorfeed.puller.reports import Reports
from mirrorfeed.puller.schedule import Known, Queue, due_by_the_clock, pause_after, wait_after
from mirrorfeed.puller.settings import Settings
from mirrorfeed.puller.state import BranchState, HostState, State
from mirrorfeed.puller.urls import place_of

logger = logging.getLogger(__name__)

LIST_SECONDS = 2.0
"""How often the file is looked at."""
CYCLE_SECONDS = 300.0
"""How often a service says that it works."""
FIGURES_SECONDS = 5.0
"""How often it counts, for those who ask how it is."""
HANGS_SECONDS = 60.0
IN_USE_SECONDS = 60.0
"""When to look again for a branch that somebody else is mirroring."""


class Screen(Protocol):
    """Where a person watches."""

    def began(self, branch: Branch) -> Callable[[bytes], None]:
        """An attempt has begun; gives what to call with git's progress."""

    def ended(self, branch: Branch, outcome: Outcome) -> None: ...

    def pass_begins(self, due: int) -> None:
        """So many branches will be mirrored, and then it is over."""


class Puller:
    """Works through a list, until it is told to end, or one pass is over."""

    def __init__(
        self,
        list_path: Path,
        folder: Folder,
        settings: Settings,
        state: State,
        reports: Reports,
        *,
        screen: Screen | None = None,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Reads the list. Raises BadBranchList."""
        self.totals = Totals()
        self.figures = Figures()
        """As they were a moment ago. May be read in any thread."""
        self._list_path = list_path
        self._folder = folder
        self._settings = settings
        self._state = state
        self._reports = reports
        self._screen = screen
        self._draw = draw
        self._processes = Processes()
        self._attempts = Attempts(folder, settings, reports, self._processes)
        self._maintenance = Maintenance(folder, settings, self.wake)
        self._queue = Queue(settings.per_host)
        self._list: BranchList = read_branch_list(list_path)
        self._seen_list = file_state(list_path)
        self._branches: dict[int, Branch] = {}
        self._hosts: dict[int, str] = {}
        self._known = state.branches()
        self._paused = state.hosts()
        self._running: dict[int, Branch] = {}
        self._ended: deque[tuple[int, Future[Outcome]]] = deque()
        self._unsaved: list[tuple[int, BranchState]] = []
        self._wakes, self._woken_by = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._ends_at: float | None = None
        self._must_read = False
        self._turned_at: float | None = None
        self._counted_at = 0.0
        self._list_trouble: str | None = None
        self._note_trouble: str | None = None

    @property
    def branches(self) -> Collection[Branch]:
        """Those of the list."""
        return self._list.branches.values()

    def why_not_live(self) -> str | None:
        """Why only a restart would help; None if it is live."""
        turned_at = self._turned_at
        if turned_at is not None and (since := time.monotonic() - turned_at) > HANGS_SECONDS:
            return f"its loop has not turned for {since:.0f} s"
        return None

    def why_not_ready(self) -> str | None:
        """Why it does not do all that it should; None if it is ready."""
        if self._turned_at is None:
            return "it has not begun"
        if self._ends_at is not None:
            return "it was told to end"
        return self._list_trouble or self._note_trouble

    # Called from signal handlers: they set a flag, and wake the loop.

    def stop(self) -> None:
        """Starts nothing any more; what runs has some time left. Called again: none."""
        now = time.monotonic()
        wait = self._settings.stop_seconds if self._ends_at is None else 0.0
        self._ends_at = now + wait
        self.wake()

    def read_list(self) -> None:
        """The list may have changed."""
        self._must_read = True
        self.wake()

    def wake(self) -> None:
        with suppress(BlockingIOError):  # full: it will wake up anyway
            os.write(self._woken_by, b"x")

    def run(
        self, *, once: bool, all_due: bool, on_turn: Callable[[], None] = lambda: None
    ) -> Totals:
        """Mirrors what is due; for ever, or in one pass. With `all_due` everything is due now.
        Calls `on_turn` every two seconds or more often.

        Returns once it was told to end, or the pass is over.
        """
        began_at = datetime.now(UTC)
        closed = close_leftovers(
            self._folder, self._reports, self._known, self._list.branches.keys()
        )
        self._save([(each, self._known[each]) for each in closed if each in self._known])
        self._take_over(self._list, all_due=all_due)
        horizon = time.monotonic() if once else None
        cycle_began = time.monotonic()
        if self._screen and horizon is not None:
            self._screen.pass_begins(self._queue.count_due(horizon))
        with ThreadPoolExecutor(self._settings.jobs, "mirror") as threads:
            try:
                while not self._is_over(horizon):
                    self._turned_at = time.monotonic()
                    self._count(once=once)
                    on_turn()
                    self._start_due(threads, horizon)
                    if self._is_over(horizon):
                        break
                    self._wait(horizon)
                    self._end_late_ones()
                    self._settle_ended()
                    self._look_at_list(once=once)
                    self._maintain()
                    if os.getpid() == 1:
                        self._processes.reap()
                    if not once and time.monotonic() - cycle_began >= CYCLE_SECONDS:
                        self._reports.passed(began_at, datetime.now(UTC))
                        began_at, cycle_began = datetime.now(UTC), time.monotonic()
            finally:
                # Also after a bug here: nothing may go on without us.
                if self._running:
                    self._processes.interrupt()
                if self._maintenance.is_running:
                    self._maintenance.interrupt()
        self._settle_ended()
        self._save()
        self._settle_maintained()  # it may have ended just before the pass was over
        if self._ends_at is None or not once:
            self._reports.passed(began_at, datetime.now(UTC))
        return self.totals

    def close(self) -> None:
        self._maintenance.close()
        self._processes.close()
        os.close(self._wakes)
        os.close(self._woken_by)

    def _is_over(self, horizon: float | None) -> bool:
        if self._running or self._ended:
            return False
        if self._ends_at is not None:
            return not self._maintenance.is_running
        if horizon is None:
            return False
        due_at = self._queue.next_at()
        return (due_at is None or due_at > horizon) and not self._maintenance.is_running

    def _start_due(self, threads: ThreadPoolExecutor, horizon: float | None) -> None:
        until = time.monotonic() if horizon is None else horizon
        starting = []
        while self._ends_at is None and len(self._running) < self._settings.jobs:
            branch_id = self._queue.take(until)
            if branch_id is None:
                break
            branch = self._running[branch_id] = self._branches[branch_id]
            known = self._known[branch_id] = self._newest(branch_id)
            known.name, known.running_since = branch.name, time.time()
            starting.append((branch_id, known))
        self._save(starting)
        for branch_id, known in starting:
            self._start(threads, self._running[branch_id], known)

    def _start(self, threads: ThreadPoolExecutor, branch: Branch, known: BranchState) -> None:
        on_progress = self._screen.began(branch) if self._screen else lambda _: None
        future = threads.submit(self._attempts.attempt, branch, known, on_progress=on_progress)
        future.add_done_callback(lambda done: self._has_ended(branch.id, done))

    def _newest(self, branch_id: int) -> BranchState:
        """What is known of a branch: `sync` may have mirrored it meanwhile."""
        known = self._known.get(branch_id) or BranchState()
        try:
            stored = self._state.branch(branch_id)
        except PullerError:
            return known  # the attempt counts, and not the notes
        return stored if stored and stored.attempted_at > known.attempted_at else known

    def _has_ended(self, branch_id: int, done: "Future[Outcome]") -> None:
        """In the attempt's thread."""
        self._ended.append((branch_id, done))
        self.wake()

    def _wait(self, horizon: float | None) -> None:
        now = time.monotonic()
        at = now + LIST_SECONDS
        if self._ends_at is not None:
            if now < self._ends_at:
                at = min(at, self._ends_at)
        elif len(self._running) < self._settings.jobs and self._ends_at is None:
            due_at = self._queue.next_at()
            if due_at is not None and (horizon is None or due_at <= horizon):
                at = min(at, due_at)
        select.select([self._wakes], [], [], max(0.0, at - now))
        with suppress(BlockingIOError):
            os.read(self._wakes, 4096)

    def _end_late_ones(self) -> None:
        is_late = self._ends_at is not None and time.monotonic() >= self._ends_at
        if is_late and not self._processes.is_interrupted:
            self._processes.interrupt()
        if self._ends_at is not None and self._maintenance.is_running:
            self._maintenance.interrupt()  # it can be done at any other time

    def _settle_ended(self) -> None:
        while self._ended:
            branch_id, done = self._ended.popleft()
            branch = self._running.pop(branch_id)
            self._queue.done(branch_id)
            known = self._known[branch_id]
            known.running_since = None
            try:
                outcome = done.result()
            except Exception:
                logger.exception("the puller itself failed", extra={"branch": branch_id})
                failure = MirrorFailure(FailureClass.OTHER, "the puller itself failed; see its log")
                outcome = Outcome(began_at=time.time(), seconds=0.0, failure=failure)
            self._settle(branch, known, outcome)
            self._unsaved.append((branch_id, known))
            if self._screen:
                self._screen.ended(branch, outcome)

    def _settle(self, branch: Branch, known: BranchState, outcome: Outcome) -> None:
        interval = branch.interval_seconds or self._settings.interval_seconds
        is_first = known.mirrored_at == 0
        note(known, branch, outcome)
        log_outcome(branch, outcome)
        if outcome.held_by:
            wait = IN_USE_SECONDS
        elif outcome.failure and outcome.failure.failure_class is FailureClass.INTERRUPTED:
            self.totals.interrupted += 1
            wait = 0.0
        elif outcome.failure:
            self.totals.failed += 1
            wait = wait_after(interval, known.failures, is_first=False, draw=self._draw)
        else:
            self.totals.mirrored += 1
            wait = wait_after(interval, 0, is_first=is_first, draw=self._draw)
        known.due_at = time.time() + wait
        self._heed_limits_of(self._hosts.get(branch.id, ""), outcome)
        current = self._branches.get(branch.id)
        if current is not None:  # else it has left the list meanwhile
            self._put(current, time.monotonic() + wait)

    def _heed_limits_of(self, host: str, outcome: Outcome) -> None:
        """A host that says that it is asked too often is left alone for a while."""
        if not host or outcome.held_by:
            return
        failure = outcome.failure
        if failure and failure.failure_class is FailureClass.RATE_LIMITED:
            if self._queue.is_paused(host, time.monotonic()):
                return
            paused = self._paused.setdefault(host, HostState(0.0, 0))
            paused.pauses += 1
            seconds = pause_after(paused.pauses)
            paused.paused_until = time.time() + seconds
            self._queue.pause(host, time.monotonic() + seconds)
            self._save_host(host, paused)
            logger.warning("a host is left alone", extra={"host": host, "seconds": round(seconds)})
        elif failure is None and host in self._paused:
            del self._paused[host]
            self._save_host(host, None)

    def _put(self, branch: Branch, due_at: float) -> None:
        self._queue.put(branch.id, self._hosts[branch.id], due_at)

    def _look_at_list(self, *, once: bool) -> None:
        if once or self._ends_at is not None:
            return
        seen = file_state(self._list_path)
        if not self._must_read and seen == self._seen_list:
            return
        self._must_read, self._seen_list = False, seen
        try:
            self._list = read_branch_list(self._list_path)
        except BadBranchList as error:
            self._list_trouble = f"the list is refused, the one before counts: {error}"
            logger.error("the list is refused; the one before counts", extra={"because": error})
            return
        self._list_trouble = None
        self._take_over(self._list, all_due=False)

    def _take_over(self, new: BranchList, *, all_due: bool) -> None:
        """The branches of the list, and no others, are mirrored from now on."""
        now, wall = time.monotonic(), time.time()
        gone = self._branches.keys() - new.branches.keys()
        for branch_id in gone:
            self._queue.remove(branch_id)
        before, self._branches = self._branches, new.branches
        changed = []
        for host, paused in self._paused.items():
            if 0 < (left := paused.paused_until - wall) <= pause_after(paused.pauses):
                self._queue.pause(host, now + left)
        for branch in new.branches.values():
            old = before.get(branch.id)
            if old == branch and not all_due:
                continue
            self._hosts[branch.id] = self._host_of(branch)
            if self._queue.is_running(branch.id):
                continue
            known = self._known.get(branch.id)
            is_other_place = known is not None and known.url and known.url != branch.url
            if all_due or known is None or is_other_place:
                self._put(branch, now)
                continue
            due = due_by_the_clock(
                Known(known.due_at, known.attempted_at),
                wall,
                branch.interval_seconds or self._settings.interval_seconds,
                known.failures,
                self._draw,
            )
            if due != (known.due_at, known.attempted_at):
                known.due_at, known.attempted_at = due
                changed.append((branch.id, known))
            self._put(branch, now + due.due_at - wall)
        self._save(changed)
        logger.info(
            "the list is read",
            extra={
                "branches": len(new.branches),
                "without_url": new.without_url,
                "gone": len(gone),
            },
        )

    def _host_of(self, branch: Branch) -> str:
        try:
            return place_of(branch.url, branch.vcs, self._settings.protocols).host
        except MirrorFailure:
            return ""  # the attempt will say so; it needs no place of any host

    def _count(self, *, once: bool) -> None:
        now = time.monotonic()
        if once or now - self._counted_at < FIGURES_SECONDS:
            return
        self._counted_at = now
        wall = time.time()
        self.figures = figures_of(
            self._branches.values(),
            self._known,
            self._queue.due_times(),
            running=len(self._running),
            paused_hosts=sum(host.paused_until > wall for host in self._paused.values()),
            now=now,
        )

    def _save(self, states: Iterable[tuple[int, BranchState]] = ()) -> None:
        """Notes these, and what has ended since the last time, in one transaction. What cannot be
        noted, for lack of room, say, must not keep anything from being mirrored."""
        states = [*self._unsaved, *states]
        self._unsaved.clear()
        if not states:
            return
        try:
            self._state.save(states)
            self._note_trouble = None
        except PullerError as error:
            self._note_trouble = str(error)
            logger.error("cannot note what happens", extra={"because": error})

    def _save_host(self, name: str, state: HostState | None) -> None:
        try:
            self._state.save_host(name, state)
        except PullerError as error:
            logger.error("cannot note what happens", extra={"because": error})

    def _maintain(self) -> None:
        self._settle_maintained()
        if self._ends_at is None:
            self._maintenance.start_next(self._branches.values(), self._known, self._running)

    def _settle_maintained(self) -> None:
        if maintained := self._maintenance.finished():
            known = self._known[maintained.branch_id]
            known.maintained_at, known.size_bytes = time.time(), maintained.size_bytes
            known.is_suspect = maintained.is_corrupt
            self._save([(maintained.branch_id, known)])
