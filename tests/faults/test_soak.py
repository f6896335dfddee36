"""A short soak; `make soak` runs a long one (docs/faults.md)."""

import json
from pathlib import Path

import pytest

from tests.faults.campaign.schedule import PULLERS, UPKEEP, WORKERS, Kind
from tests.faults.soak.life import Plan, run_soak, whole_schedule
from tests.faults.soak.verdict import GAUGES, judge

SHORT = Plan(seed=24, minutes=0.3, events_a_second=40, seconds_a_fault=9)


def test_everything_that_a_deployment_runs_survives_upkeep_and_faults(tmp_path: Path) -> None:
    """Services restarted, partitions moved twice, the primary lost: the tables hold what was
    reported, and nothing else; and everything was measured."""
    outcome = run_soak(SHORT, tmp_path)
    assert outcome.events > SHORT.events
    assert outcome.happened.keys() > UPKEEP
    assert outcome.commands > 0
    measured = json.loads((tmp_path / "samples.json").read_text())
    assert set(measured["series"]) == set(GAUGES)


def test_what_goes_on_growing_is_found() -> None:
    """A slope is one, in what is large and in what is small; a step before the thirds that are
    compared, a wave and what had no value are none."""
    memory = ("memory", "worker-1")

    def is_flat(values: list[float | None]) -> bool:
        return all(each.is_flat for each in judge({memory: values}, len(values)))

    assert not is_flat([60 + 0.5 * look for look in range(90)])
    assert not is_flat([2 + 0.1 * look for look in range(90)])
    assert is_flat([40.0 if look < 25 else 60.0 for look in range(90)])
    assert is_flat([60.0 + look % 7 for look in range(90)])
    assert is_flat([None if look % 3 else 60.0 for look in range(90)])
    assert list(judge({memory: [None] * 90}, 90)) == []


def test_only_what_may_grow_for_a_while_is_not_judged() -> None:
    """What waits comes and goes, and the number of events is the point of it all."""
    shown = {gauge for gauge, each in GAUGES.items() if each.share is None}
    assert shown == {"reported", "pending", "backlog"}


def test_a_worker_and_a_puller_live_from_their_upgrade_to_the_end() -> None:
    """No fault kills the first of either, in which a leak would show."""
    plan = Plan(seed=5, minutes=600)
    faults = whole_schedule(plan)
    (upgrade,) = [each for each in faults if each.kind is Kind.SERVICES_UPGRADED]
    assert upgrade.at_event < plan.events / 3
    for kind, count in ((Kind.WORKER_KILLED, WORKERS), (Kind.PULLER_KILLED, PULLERS)):
        hit = {each.target % count for each in faults if each.kind is kind}
        assert hit == set(range(1, count))


def test_the_picture_has_a_chart_for_each_gauge(tmp_path: Path) -> None:
    """It is drawn from the samples alone."""
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib: `make soak` has it")
    from tests.faults.soak.picture import draw

    looks = [1.0, 2.0, 3.0]
    samples = {
        "seconds": looks,
        "faults": [{"seconds": 1.5, "is_upkeep": True}, {"seconds": 2.5, "is_upkeep": False}],
        "series": {gauge: {"one": looks, "two": [None, 1.0, None]} for gauge in GAUGES},
    }
    draw(samples, tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    assert [each.title for each in GAUGES.values() if f">{each.title}<" not in drawn] == []
