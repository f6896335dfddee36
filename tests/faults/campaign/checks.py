"""What must hold once everything has healed and drained. Each check yields what is wrong."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from textwrap import shorten
from typing import Any

from mirrorfeed.consumer.partitions.own_runs import MARKER_NAME
from mirrorfeed.contract import routing, wire
from mirrorfeed.contract.events import (
    Envelope,
    MirrorCompleted,
    MirrorEvent,
    MirrorFailed,
    MirrorStarted,
    ScriptRun,
)
from tests.faults.campaign.history import SHARED_BRANCHES, steps
from tests.faults.campaign.stand import Stand, taken
from tests.faults.campaign.witness import BRANCHES, Witness, state_of
from tests.reference import BranchState, fold
from tests.servers import rows
from tests.spools import status_of

MEMORY_LIMIT_MEGABYTES = 150.0
SHOWN = 5
"""How many complaints of one kind are shown."""
SHOWN_CHARACTERS = 500


def told_by(stand: Stand) -> list[list[Envelope]]:
    """What each spool ever took, in order."""
    return [[wire.decode(body) for body in taken(spool)] for spool in stand.all_spools]


def complaints(stand: Stand, seed: int, told: list[list[Envelope]], witness: Witness) -> list[str]:
    """Everything that is wrong, or nothing."""
    history = [envelope for each in told for envelope in each]
    found: list[str] = []
    for check in (
        spools(stand, seed, told),
        accounts(stand),
        branch_rows(stand, history),
        attempts(stand, history),
        script_runs(stand, history),
        leftovers(stand),
        order_seen(witness),
        memory(witness),
    ):
        wrong = list(check)
        found += [shorten(each, SHOWN_CHARACTERS) for each in wrong[:SHOWN]]
        if len(wrong) > SHOWN:
            found.append(f"… and {len(wrong) - SHOWN:,} more of this kind")
    return found


def spools(stand: Stand, seed: int, told: list[list[Envelope]]) -> Iterator[str]:
    """Every call that returned is in the spool, as it was made, and nothing else is."""
    for number, (puller, envelopes) in enumerate(zip(stand.pullers, told, strict=False)):
        status = status_of(puller.spool)
        counts = (puller.board.returned, status.spooled, status.confirmed, len(envelopes))
        if set(counts) != {stand.calls}:
            yield (
                f"puller-{number} made {stand.calls} calls, but returned, spooled, confirmed and"
                f" kept are {counts}"
            )
        for sequence, (step, envelope) in enumerate(
            zip(steps(seed, number), envelopes, strict=False), 1
        ):
            if envelope.sequence != sequence or not step.is_told_by(envelope.event):
                yield f"puller-{number}, call {sequence}: {step} became {envelope}"
    for spool, envelopes in zip(stand.spools, told[len(stand.pullers) :], strict=True):
        status = status_of(spool)
        if not status.spooled == status.confirmed == len(envelopes):
            yield f"{spool.name} kept {len(envelopes)} events, and says {status}"


def accounts(stand: Stand) -> Iterator[str]:
    """`mirror-consumer audit` misses nothing, and agrees with each spool on its last event."""
    audit = json.loads(stand.run("mirror-consumer", "audit", "--json").stdout)
    if audit["missing_total"]:
        yield f"the audit misses {audit}"
    heard = {each["source"]: (each["highest"], each["received"]) for each in audit["sources"]}
    for spool in stand.all_spools:
        status = status_of(spool)
        if heard.pop(status.source, None) != (status.spooled, status.spooled):
            yield f"{status.source} spooled {status.spooled}, the audit says {audit}"
    if heard:
        yield f"the audit knows sources that do not exist: {heard}"


def branch_rows(stand: Stand, history: list[Envelope]) -> Iterator[str]:
    """Every branch row is the reference's fold of everything the spools took."""
    expected = fold(history)
    with stand.engine.connect() as connection:
        for row in connection.execute(BRANCHES):
            branch_id, state = state_of(row)
            due = expected.get(branch_id, BranchState())
            if state != due:
                yield f"branch {branch_id} is {state}, but should be {due}"
    rebuild = stand.run("mirror-consumer", "rebuild", "--dry-run")
    if rebuild.returncode:
        yield f"mirror-consumer rebuild --dry-run: {rebuild.stdout}"


def attempts(stand: Stand, history: list[Envelope]) -> Iterator[str]:
    """There is a row for each attempt, unless it was pruned, and for nothing else."""
    expected = {
        (envelope.event.branch_id, envelope.event.started_at)
        for envelope in history
        if isinstance(envelope.event, MirrorEvent)
    }
    found = set(map(tuple, rows(stand.engine, "SELECT branch_id, started_at FROM mirror_attempt")))
    if stand.kept is not None:
        since = datetime.now(UTC) - stand.kept
        expected = {each for each in expected if each in found or each[1] > since}
    yield from differences("attempt", expected, found)


def script_runs(stand: Stand, history: list[Envelope]) -> Iterator[str]:
    """There is a row for each run, and for nothing else but the markers of moves."""
    runs = [each.event for each in history if isinstance(each.event, ScriptRun)]
    expected = {
        (run.name, run.hostname, run.started_at, run.completed_at) for run in [*runs, *stand.probes]
    }
    query = f"""
        SELECT name, hostname, date_started, date_completed FROM script_activity
        WHERE name <> '{MARKER_NAME}'
    """
    yield from differences("script run", expected, set(map(tuple, rows(stand.engine, query))))


def differences(what: str, expected: set[Any], found: set[Any]) -> Iterator[str]:
    yield from (f"{what} {each} is missing" for each in expected - found)
    yield from (f"{what} {each} was never published" for each in found - expected)


def leftovers(stand: Stand) -> Iterator[str]:
    """There is no letter, and nothing in any queue."""
    for letter in rows(stand.engine, "SELECT reason, detail, source, event_id FROM dead_letter"):
        yield f"a letter: {letter}"
    queues = [routing.DEAD_QUEUE, *map(routing.partition_queue, range(stand.partitions))]
    with stand.admin_channel() as channel:
        for queue in queues:
            if count := channel.queue_declare(queue, passive=True).method.message_count:
                yield f"{queue} has {count} messages"
    if stand.cluster is not None:
        for queue in queues:
            if (members := len(stand.cluster.members_of(queue))) != len(stand.nodes):
                yield f"{queue} has {members} members"


def order_seen(witness: Witness) -> Iterator[str]:
    """No reader saw an older attempt or an older success over a newer one."""
    for branch_id, seen in witness.seen.items():
        for before, after in pairwise(seen):
            for name in ("last_mirror_attempt", "last_mirrored"):
                then, now = getattr(before, name), getattr(after, name)
                if then is not None and (now is None or now < then):
                    yield f"branch {branch_id}: {name} went back from {then} to {now}"


def states_out_of_sequence(witness: Witness, told: list[list[Envelope]]) -> int:
    """How many states were seen, of branches that only one puller mirrors, that the branch would
    not pass through if its events were applied in order. See guarantee 9."""
    return sum(
        state not in passed
        for envelopes in told
        for branch_id, passed in passed_through(envelopes).items()
        for state in witness.seen[branch_id]
    )


def passed_through(envelopes: list[Envelope]) -> dict[int, set[BranchState]]:
    """The states that each branch that is not shared passes through, its events being in order.

    A puller's client ends the attempt it started last, so each state follows from the one before.
    """
    passed: dict[int, set[BranchState]] = {}
    states: dict[int, BranchState] = {}
    for envelope in envelopes:
        event = envelope.event
        if not isinstance(event, MirrorEvent) or event.branch_id <= SHARED_BRANCHES:
            continue
        state = after(states.get(event.branch_id, BranchState()), event)
        passed.setdefault(event.branch_id, {BranchState()}).add(state)
        states[event.branch_id] = state
    return passed


def after(state: BranchState, event: MirrorStarted | MirrorCompleted | MirrorFailed) -> BranchState:
    begun: datetime = event.started_at
    match event:
        case MirrorStarted():
            return replace(state, last_mirror_attempt=begun)
        case MirrorCompleted():
            return BranchState(begun, begun, event.revision_id, 0, None)
        case MirrorFailed():
            return replace(
                state,
                last_mirror_attempt=begun,
                mirror_failures=state.mirror_failures + 1,
                mirror_status_message=event.reason,
            )


def memory(witness: Witness) -> Iterator[str]:
    """No service ever exceeds a limit that does not depend on the history's length."""
    for name, megabytes in witness.megabytes.items():
        if max(megabytes) > MEMORY_LIMIT_MEGABYTES:
            yield f"{name} used {max(megabytes):.0f} MB"
