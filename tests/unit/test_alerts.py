"""Alerts, dashboard and documents speak of what there is to be scraped."""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mirrorfeed.consumer.apply.applier import Tally
from mirrorfeed.consumer.branches.scripts import Sighting, Watched
from mirrorfeed.consumer.branches.status import BranchState
from mirrorfeed.consumer.collector.metrics import CollectorMetrics
from mirrorfeed.consumer.collector.reading import STALE_AFTER, InDatabase, Letters, Reading
from mirrorfeed.consumer.health import QueueCounts
from mirrorfeed.consumer.worker.metrics import WorkerMetrics
from mirrorfeed.consumer.worker.progress import Progress
from mirrorfeed.contract.cached import Cached
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.publisher.account import SpoolAccount
from mirrorfeed.publisher.forward.forwarder import Forwarder
from mirrorfeed.publisher.metrics import ForwarderMetrics
from mirrorfeed.publisher.spool import SpoolStatus
from mirrorfeed.puller.figures import Figures, Totals
from mirrorfeed.puller.metrics import PullerMetrics
from tests.servers import wait_for

ROOT = Path(__file__).parents[2]
RULES = ROOT / "packaging" / "prometheus" / "rules.yml"
RULE_TESTS = RULES.with_name("rules.test.yml")
DASHBOARD = json.loads((ROOT / "packaging" / "grafana" / "mirrorfeed.json").read_text())
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [
    *((alert["alert"], alert["expr"]) for alert in ALERTS),
    *((panel["title"], each["expr"]) for panel in PANELS for each in panel["targets"]),
]
NAME = re.compile(r"\b(?:mirrorfeed|process)_\w+\b")
HISTOGRAM_SUFFIXES = ("_bucket", "_count", "_sum")
NOW = datetime(2026, 1, 1, tzinfo=UTC)

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)"
)


def progress() -> Progress:
    """Of a worker that has done something."""
    progress = Progress()
    progress.counts.subscribed("mirror.events.p0", 10)
    progress.counts.committed(Tally(0, Counter()))
    return progress


ACCOUNT = SpoolAccount(SpoolStatus("/pullers/vostok/x", 3, 1, 2, 0, 5.0, NOW), 10, 100)
READING = Reading(
    InDatabase(
        branches=dict.fromkeys(BranchState, 1),
        stale=dict.fromkeys(STALE_AFTER, 1),
        letters={Reason.INVALID: Letters(1, NOW)},
        letters_not_kept=1,
        missing_events=1,
        missing_oldest_seconds=1.0,
        heard_hosts=1,
        silent_hosts=1,
        queues=["mirror.events.p0"],
        workers=[],
        scripts=[Sighting(Watched("vostok", "gc"), None, None, False)],
    ),
    {"mirror.events.p0": QueueCounts(1, 1)},
    {"mirror.events.p0": 1.0},
    1.0,
)


class Counts:
    """Of a puller."""

    figures = Figures(failing={"network": 1})
    totals = Totals()


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, frozenset[str]]:
    """Every metric of ours, and its labels."""
    spool = tmp_path_factory.mktemp("spool") / "spool.db"
    forwarder = Forwarder(spool, "amqp://guest:guest@127.0.0.1:1/%2F")
    with ExitStack() as stack:

        def cached(value: Any) -> Cached[Any]:
            found = stack.enter_context(
                Cached("it", lambda: value, interval_seconds=3600, max_age_seconds=3600)
            )
            wait_for(lambda: found.latest() is value, "the value")
            return found

        collectors: list[Collector] = [
            ProcessCollector(registry=None),
            WorkerMetrics(progress()),
            ForwarderMetrics(forwarder, cached(ACCOUNT)),
            CollectorMetrics(cached(READING)),
            PullerMetrics(Counts(), cached(None)),
        ]
        return dict(labels_of(collectors))


def labels_of(collectors: list[Collector]) -> Iterator[tuple[str, frozenset[str]]]:
    registry = CollectorRegistry()
    for each in collectors:
        registry.register(each)
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            yield sample.name, frozenset(sample.labels)


def test_a_scrape_has_no_labels_that_a_puller_could_choose(
    scraped: dict[str, frozenset[str]],
) -> None:
    """Each value would be a time series for ever."""
    ours = [labels for name, labels in scraped.items() if name.startswith("mirrorfeed_")]
    few = {"queue", "type", "outcome", "reason", "end", "state", "older_than", "le"}
    assert frozenset().union(*ours) == few | {"script", "host"}
    assert scraped["mirrorfeed_script_last_completed_timestamp_seconds"] == {"script", "host"}


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_what_alerts_and_panels_name_can_be_scraped(
    where: str, expression: str, scraped: dict[str, frozenset[str]]
) -> None:
    """Else an alert never fires, and a panel stays empty."""
    named = set(NAME.findall(expression)) - {"mirrorfeed_"}
    assert named or expression.startswith("up{")
    assert named <= scraped.keys()


def test_the_documents_list_what_can_be_scraped(scraped: dict[str, frozenset[str]]) -> None:
    """All of it, with its labels, and nothing else."""
    section = OPERATIONS.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| [^|]+ \| `(mirrorfeed_\w+)` \| (.*?) ?\|$", section, re.MULTILINE)
    documented = {name: frozenset(re.findall(r"`(\w+)`", labels)) for name, labels in listed}
    assert len(documented) == len(listed)
    found: dict[str, frozenset[str]] = {}
    for name, labels in scraped.items():
        if name.startswith("mirrorfeed_"):
            is_histogram = "_worker_batch_" in name or "_event_delay_" in name
            family = next(
                (name.removesuffix(end) for end in HISTOGRAM_SUFFIXES if name.endswith(end)), name
            )
            found[family if is_histogram else name] = labels - {"le"}
    assert documented == found


def test_every_metric_is_shown(scraped: dict[str, frozenset[str]]) -> None:
    """Somewhere on the dashboard."""
    shown = {name for _, expression in EXPRESSIONS for name in NAME.findall(expression)}
    missing = {name for name in scraped if name.startswith("mirrorfeed_")} - shown
    assert {name for name in missing if not name.endswith(HISTOGRAM_SUFFIXES)} == set()


def test_the_page_ends_with_every_alert() -> None:
    """What it means and what to do, where its runbook_url points."""
    (section,) = OPERATIONS.split("\n## ")[-1:]
    assert section.startswith("Alerts\n")
    assert re.findall(r"^### (\w+)$", section, re.MULTILINE) == [each["alert"] for each in ALERTS]
    for each in ALERTS:
        anchor = each["alert"].lower()
        assert each["annotations"]["runbook_url"] == f"docs/operations.md#{anchor}"
        assert each["labels"]["severity"] in ("warning", "critical")


def test_the_page_begins_with_questions_and_their_alerts() -> None:
    """Each alert answers one; only what a person asks about one thing has none."""
    glance = OPERATIONS.partition("\n## At a glance\n")[2].partition("\nEvery instant")[0]
    assert OPERATIONS.startswith("# Operations\n\n## At a glance\n")
    rows = glance.strip().splitlines()[2:]
    named = re.findall(r"\[(\w+)\]\(#mirrorfeed(\w+)\)", glance)
    assert [name.lower() for name, _ in named] == [anchor for _, anchor in named]
    assert {f"Mirrorfeed{name}" for name, _ in named} == {each["alert"] for each in ALERTS}
    assert [row for row in rows if not re.search(r"\| (\[.*\)|\N{EN DASH}) \|$", row)] == []


def test_every_alert_is_tried() -> None:
    """That it fires when it should, and that it does not when all is well."""
    tried = [
        case
        for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]
        for case in (test["alert_rule_test"])
    ]
    names = {each["alert"] for each in ALERTS}
    assert {case["alertname"] for case in tried if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in tried if not case.get("exp_alerts")} == names


@needs_promtool
def test_the_alerts_do_what_their_cases_say() -> None:
    """As Prometheus itself evaluates them."""
    result = subprocess.run(
        ["promtool", "test", "rules", RULE_TESTS], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
def test_prometheus_understands_every_panel(tmp_path: Path) -> None:
    """Its expressions, as if they were rules."""
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, (_, expression) in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    result = subprocess.run(
        ["promtool", "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_panels_have_a_place_of_their_own() -> None:
    """And each asks the Prometheus that whoever imports it chose."""
    cells = [
        (place["x"] + across, place["y"] + down)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for across in range(place["w"])
        for down in range(place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {across for across, _ in cells} == set(range(24))
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
