"""What every puller reports, determined by the seed: one event per call."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from random import Random

from mirrorfeed.contract.events import (
    Event,
    MirrorCompleted,
    MirrorFailed,
    MirrorStarted,
    ScriptRun,
)
from tests.builders import START

OWN_BRANCHES = 40
SHARED_BRANCHES = 5
"""Branches that every puller mirrors, as if moved from host to host. Their attempts are ordered by
the hosts' clocks, which differ."""
MAX_PADDING = 600


class Call(Enum):
    """What a puller can call."""

    START = MirrorStarted
    COMPLETE = MirrorCompleted
    FAIL = MirrorFailed
    SCRIPT = ScriptRun


@dataclass(frozen=True)
class Step:
    """One call, which becomes one event."""

    call: Call
    branch_id: int = 0
    text: str = ""
    """The revision, the reason or the script's name; unique among outcomes."""
    second: int = 0
    """When a script ran, counted from the tests' START."""

    def is_told_by(self, event: Event) -> bool:
        """Whether the event says what the call said; instants come from the puller's clock."""
        if not isinstance(event, self.call.value):
            return False
        match event:
            case MirrorStarted():
                return event.branch_id == self.branch_id
            case MirrorCompleted():
                return (event.branch_id, event.revision_id) == (self.branch_id, self.text)
            case MirrorFailed():
                return (event.branch_id, event.reason) == (self.branch_id, self.text)
        return bool(event == self.script_run())

    def script_run(self) -> ScriptRun:
        started_at = START + timedelta(seconds=self.second)
        return ScriptRun(self.text, "vostok", started_at, started_at + timedelta(seconds=1))


def branches(puller: int) -> list[int]:
    """The branches that one puller mirrors; the shared ones come last."""
    first = 1 + SHARED_BRANCHES + puller * OWN_BRANCHES
    return [*range(first, first + OWN_BRANCHES), *range(1, 1 + SHARED_BRANCHES)]


def steps(seed: int, puller: int) -> Iterator[Step]:
    """The puller's calls, without end; the n-th call becomes the n-th event in its spool.

    Attempts of many branches are under way at the same time. One in four fails, some fail as they
    begin, and a few are started again without having ended, as if the puller was killed.
    """
    random = Random(f"{seed}/history/{puller}")
    mirrored = branches(puller)
    under_way: set[int] = set()
    number = 0
    while True:
        number += 1
        branch_id = random.choice(mirrored)
        text = f"{puller}-{number} " + "✓" * int(random.expovariate(1 / 40) % MAX_PADDING)
        luck = random.random()
        if luck < 0.02:
            yield Step(Call.SCRIPT, text=f"script-{puller}", second=number)
        elif branch_id not in under_way and luck < 0.06:
            yield Step(Call.FAIL, branch_id, text)
        elif branch_id not in under_way or luck < 0.04:
            under_way.add(branch_id)
            yield Step(Call.START, branch_id)
        else:
            under_way.remove(branch_id)
            yield Step(Call.FAIL if random.random() < 0.25 else Call.COMPLETE, branch_id, text)
