"""A short round of the campaign; `make faults` runs a longer one (docs/faults.md)."""

from itertools import islice

from tests.faults.campaign.history import steps
from tests.faults.campaign.round import Plan, run_round
from tests.faults.campaign.schedule import UPKEEP, Kind, schedule

SHORT = Plan(seed=6163, events=3500, faults=7)
"""It kills both servers, workers and pullers, cuts connections, freezes a worker and publishes
twice."""


def test_a_round_of_faults_loses_repeats_and_invents_nothing() -> None:
    """Four pullers, three workers: the tables hold what was reported, and nothing else."""
    tally = run_round(SHORT)
    assert tally.events == SHORT.events
    assert tally.faults.total() == SHORT.faults


def test_the_seed_is_the_round() -> None:
    """The same seed gives the same history and schedule, and another seed a different one."""

    def drawn(seed: int) -> object:
        faults = schedule(seed, events=1000, faults=50, is_cluster=True)
        return faults, list(islice(steps(seed, 0), 1000))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_every_kind_of_fault_occurs() -> None:
    """Whatever the seed, a long enough round has them all, on one node and on three."""
    for is_cluster, others in (
        (False, {Kind.LEADER_KILLED, Kind.NODE_KILLED, Kind.NODE_FROZEN}),
        (True, {Kind.BROKER_KILLED}),
    ):
        faults = schedule(5, events=1000, faults=20, is_cluster=is_cluster)
        assert {fault.kind for fault in faults} == set(Kind) - UPKEEP - others
