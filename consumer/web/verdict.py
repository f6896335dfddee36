"""One sentence that says how everything is, and what else there is to say."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from mirrorfeed.consumer.branches.listing import Census
from mirrorfeed.consumer.branches.scripts import Rhythm
from mirrorfeed.consumer.branches.status import BranchState
from mirrorfeed.consumer.health import Kind, Problem
from mirrorfeed.consumer.operations.store import Operation, State
from mirrorfeed.consumer.operations.words import described
from mirrorfeed.consumer.sources.silence import Heard
from mirrorfeed.consumer.web.partitions import named
from mirrorfeed.consumer.web.watch import View
from mirrorfeed.consumer.words import capitalised, plural, span

OLD_VIEW_SECONDS = 30.0
"""A look that is older than this is no news of the workers."""
STANDS = {
    State.WAITING: "waits for you",
    State.INTERRUPTED: "was interrupted",
    State.FAILED: "has failed",
}
"""How an operation stands that needs somebody."""


class Level(StrEnum):
    """How much it matters."""

    BAD = "bad"
    """Events are not applied, or are lost."""
    WARN = "warn"
    """Somebody should look."""
    GOOD = "good"


class Remark(Struct, frozen=True):
    """A sentence, and the page that says more."""

    level: Level
    sentence: str
    path: str


class Facts(Struct, frozen=True, kw_only=True):
    """What the verdict depends on."""

    now: datetime
    view: View | None
    census: Census
    letters: int
    missing_events: int
    reused_events: int
    overflow: int
    silent: Sequence[Heard]
    last_event_at: datetime | None
    overdue: Sequence[Rhythm] = ()
    operations: Sequence[Operation] = ()
    """Those that are under way, or have failed lately."""


def remarks(facts: Facts) -> list[Remark]:
    """What matters most comes first. There is always one; if all is well, only that."""
    found = [
        *_of_progress(facts),
        *_of_the_ledger(facts),
        *_of_branches(facts),
        *_of_the_rest(facts),
    ]
    return found or [_all_is_well(facts)]


def _of_progress(facts: Facts) -> Iterator[Remark]:
    view = facts.view
    if view is None or view.seen is None:
        why = f": {view.database_is_away}" if view and view.database_is_away else " yet"
        yield Remark(Level.WARN, f"Nothing is known of the workers{why}.", "/workers")
        return
    if (age := view.age_seconds) > OLD_VIEW_SECONDS:
        sentence = f"Nothing new is known of the workers for {span(age)}."
        yield Remark(Level.BAD, sentence, "/workers")
    for problem in sorted(view.seen.problems, key=lambda each: each.kind is Kind.READY):
        yield Remark(Level.BAD, in_a_sentence(problem), "/workers")
    if view.seen.broker_is_away is not None:
        sentence = "The broker is away: nothing is known of what waits in it."
        yield Remark(Level.BAD, sentence, "/workers")


def in_a_sentence(problem: Problem) -> str:
    """Such as: Partition 2 stands still: no worker consumes it."""
    subject = named(problem.subject)
    if problem.kind is Kind.LIVE or subject == problem.subject:
        return f"{capitalised(subject)}: {problem.because}."
    state = "stands still" if problem.kind is Kind.PROGRESS else "is not ready"
    return f"{subject} {state}: {problem.because}."


def _of_the_ledger(facts: Facts) -> Iterator[Remark]:
    if facts.missing_events:
        are = "is" if facts.missing_events == 1 else "are"
        sentence = f"{plural(facts.missing_events, 'event')} {are} missing."
        yield Remark(Level.BAD, sentence, "/audit")
    if facts.overflow:
        were = "was" if facts.overflow == 1 else "were"
        sentence = f"{plural(facts.overflow, 'message')} {were} neither applied nor kept."
        yield Remark(Level.BAD, sentence, "/letters")
    if facts.reused_events:
        sentence = f"{plural(facts.reused_events, 'number')} came again with another event."
        yield Remark(Level.WARN, sentence, "/audit")


def _of_branches(facts: Facts) -> Iterator[Remark]:
    states = facts.census.states
    parts = [
        f"{count:,} {'is' if count == 1 else 'are'} {state}"
        for state in (BranchState.STUCK, BranchState.FAILING)
        if (count := states[state])
    ]
    of_all = f"Of {plural(facts.census.total, 'branch', 'branches')}"
    if parts:
        yield Remark(Level.WARN, f"{of_all}, {' and '.join(parts)}.", "/branches?need=1")
    elif stale := facts.census.stale:
        has = "has" if stale == 1 else "have"
        sentence = f"{of_all}, {stale:,} {has} had no success for too long."
        yield Remark(Level.WARN, sentence, "/branches?need=1")


def _of_the_rest(facts: Facts) -> Iterator[Remark]:
    if facts.silent:
        longest = facts.silent[0]
        has = "has" if len(facts.silent) == 1 else "have"
        sentence = f"{plural(len(facts.silent), 'host')} {has} been silent"
        yield Remark(
            Level.WARN, f"{sentence}: {longest.name} for {span(longest.silent_seconds)}.", "/audit"
        )
    if facts.overdue:
        longest_overdue = max(facts.overdue, key=lambda each: each.silent_seconds)
        is_are = "is" if len(facts.overdue) == 1 else "are"
        yield Remark(
            Level.WARN,
            f"{plural(len(facts.overdue), 'script')} {is_are} overdue: {longest_overdue.name} on"
            f" {longest_overdue.hostname} last began {span(longest_overdue.silent_seconds)} ago.",
            "/scripts",
        )
    for operation in facts.operations:
        if (said := STANDS.get(operation.state)) is not None:
            sentence = f"Operation {operation.id}, to {described(operation)}, {said}."
            yield Remark(Level.WARN, sentence, f"/operations/{operation.id}")
    if facts.letters:
        wait = "waits" if facts.letters == 1 else "wait"
        yield Remark(Level.WARN, f"{plural(facts.letters, 'dead letter')} {wait}.", "/letters")


def _all_is_well(facts: Facts) -> Remark:
    if not facts.census.total:
        return Remark(Level.GOOD, "No branch is registered yet.", "/branches")
    branches = plural(facts.census.total, "branch", "branches")
    if facts.last_event_at is None:
        return Remark(Level.GOOD, f"All is well: {branches}, and no event yet.", "/branches")
    age = max(0.0, (facts.now - facts.last_event_at).total_seconds())
    return Remark(Level.GOOD, f"All is well: {branches}, last event {span(age)} ago.", "/branches")
