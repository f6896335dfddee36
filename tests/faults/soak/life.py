"""One soak: everything runs, faults and upkeep come and go, what it uses is measured and judged."""

import json
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.campaign.checks import complaints, told_by
from tests.faults.campaign.round import (
    RoundFailed,
    do_all,
    drain,
    end_services,
    replayable,
    said,
)
from tests.faults.campaign.schedule import (
    PARTITIONS,
    PULLERS,
    UPKEEP,
    WORKERS,
    Fault,
    Kind,
    Way,
    schedule,
)
from tests.faults.campaign.stand import Stand, open_stand
from tests.faults.campaign.witness import Witness
from tests.faults.soak.gauges import Gauges
from tests.faults.soak.household import Household
from tests.faults.soak.verdict import Judgement, judge

MAX_SKEW_SECONDS = 60
"""Less than in the campaign, because here attempts are pruned soon: see `Household`."""
SAMPLES = 600
LEAST_SECONDS_A_SAMPLE = 2.0
MOVED_TO = 7
"""No multiple of 4, so that most slots change their queue."""
LOSS_SECONDS = 2.0
"""How long the primary is gone before its standby is promoted."""


@dataclass(frozen=True)
class Plan:
    """What defines a soak."""

    seed: int
    minutes: float
    events_a_second: float = 20.0
    """Of all pullers together."""
    seconds_a_fault: float = 40.0
    is_cluster: bool = False

    @property
    def events(self) -> int:
        return round(self.minutes * 60 * self.events_a_second / PULLERS) * PULLERS

    @property
    def command(self) -> str:
        cluster = " --cluster" if self.is_cluster else ""
        return (
            f"python -m tests.faults.soak --seed {self.seed} --minutes {self.minutes:g}"
            f" --events-a-second {self.events_a_second:g}"
            f" --seconds-a-fault {self.seconds_a_fault:g}{cluster}"
        )


@dataclass(frozen=True)
class Outcome:
    """What happened in a soak in which everything arrived."""

    events: int
    """From all spools."""
    happened: Counter[Kind]
    commands: int
    looks: int
    worker_sessions: int
    states_seen: int
    longest_stall_seconds: float
    most_megabytes: dict[str, float]
    drain_seconds: float
    seconds: float
    judgements: list[Judgement]

    @property
    def grown(self) -> list[Judgement]:
        return [each for each in self.judgements if not each.is_flat]


def run_soak(plan: Plan, into: Path) -> Outcome:
    """Writes `samples.json` into the folder, whatever comes of it.

    Raises RoundFailed if a promise did not hold, SandboxError if servers cannot be started.
    """
    into.mkdir(parents=True, exist_ok=True)
    seconds = plan.minutes * 60
    began_at = time.monotonic()
    with (
        open_stand(
            plan.seed,
            calls=plan.events // PULLERS,
            is_cluster=plan.is_cluster,
            has_standby=True,
            max_skew_seconds=MAX_SKEW_SECONDS,
        ) as stand,
        replayable(plan.command, stand),
        ExitStack() as stack,
    ):
        stack.callback(stand.ended.set)
        witness = Witness(stand)
        stack.callback(witness.stop)
        witness.start()
        household = Household(stand)
        for service in stand.others:
            stack.callback(service.clear_away)
        stack.callback(household.stop)
        household.start()
        gauges = Gauges(stand, max(LEAST_SECONDS_A_SAMPLE, seconds / SAMPLES))
        stack.callback(write, into, plan, stand, gauges)
        stack.callback(gauges.stop)
        gauges.start()
        do_all(stand, whole_schedule(plan), seconds)
        looks = len(gauges.seconds)
        drain_seconds = end(stand, household)
        gauges.stop()
        witness.stop()
        told = told_by(stand)
        if wrong := complaints(stand, plan.seed, told, witness):
            raise RoundFailed("\n".join(wrong))
        return Outcome(
            events=sum(map(len, told)),
            happened=Counter(fault.kind for _, fault in stand.begun),
            commands=household.commands,
            looks=household.looks,
            worker_sessions=sum(said(each.log, "INFO consuming") for each in stand.workers),
            states_seen=sum(map(len, witness.seen.values())),
            longest_stall_seconds=witness.longest_stall_seconds,
            most_megabytes=witness.most_megabytes(),
            drain_seconds=drain_seconds,
            seconds=time.monotonic() - began_at,
            judgements=list(judge(gauges.series, looks)),
        )


def end(stand: Stand, household: Household) -> float:
    """Nobody reports any more, all arrives, and every service ends. How long it took to arrive."""
    household.stop()
    if complaint := household.puller.terminate():
        raise RoundFailed(complaint)
    began_at = time.monotonic()
    drain(stand)
    drain_seconds = time.monotonic() - began_at
    end_services(stand)
    return drain_seconds


def whole_schedule(plan: Plan) -> list[Fault]:
    """The campaign's faults, and upkeep in the middle."""
    faults = schedule(
        plan.seed,
        events=plan.events,
        faults=max(1, round(plan.minutes * 60 / plan.seconds_a_fault)),
        is_cluster=plan.is_cluster,
    )
    return sorted([*map(sparing, faults), *upkeep(plan)], key=lambda fault: fault.at_event)


def sparing(fault: Fault) -> Fault:
    """The first worker and the first puller are never killed: each has one long life, in which
    a leak would show."""
    victims = {Kind.WORKER_KILLED: WORKERS, Kind.PULLER_KILLED: PULLERS}
    if fault.kind in victims and fault.target % victims[fault.kind] == 0:
        return replace(fault, target=1)
    return fault


def upkeep(plan: Plan) -> list[Fault]:
    """Services are restarted before the second third begins, so that the second and the last third
    are of the same processes."""
    plans = (
        (0.3, Kind.SERVICES_UPGRADED, 0),
        (0.4, Kind.PARTITIONS_MOVED, MOVED_TO),
        (0.5, Kind.STANDBY_PROMOTED, 0),
        (0.6, Kind.PARTITIONS_MOVED, PARTITIONS),
    )
    return [
        Fault(round(share * plan.events), kind, target, Way.WORKERS_TO_DATABASE, LOSS_SECONDS, 0.0)
        for share, kind, target in plans
    ]


def write(into: Path, plan: Plan, stand: Stand, gauges: Gauges) -> None:
    """What was measured, as a JSON document; `picture` draws it."""
    series: dict[str, dict[str, list[float | None]]] = {}
    for (gauge, name), values in sorted(gauges.series.items()):
        series.setdefault(gauge, {})[name] = [
            None if each is None else round(each, 4) for each in values
        ]
    document = {
        "command": plan.command,
        "servers": [stand.nodes[0].name, stand.database.name],
        "faults": [
            {
                "seconds": round(at - gauges.began_at, 1),
                "kind": fault.kind,
                "is_upkeep": fault.kind in UPKEEP,
            }
            for at, fault in stand.begun
        ],
        "seconds": [round(each, 1) for each in gauges.seconds],
        "series": series,
    }
    (into / "samples.json").write_text(json.dumps(document) + "\n")
