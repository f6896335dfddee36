"""A puller's metrics, for Prometheus."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mirrorfeed.contract.cached import Cached
from mirrorfeed.publisher.account import SpoolAccount
from mirrorfeed.publisher.metrics import SpoolMetrics
from mirrorfeed.puller.figures import Figures, Totals
from mirrorfeed.puller.reasons import FailureClass


class Counted(Protocol):
    """A puller, as far as it is counted."""

    figures: Figures
    totals: Totals


class PullerMetrics(Collector):
    """A puller and its spool."""

    def __init__(self, puller: Counted, account: Cached[SpoolAccount]) -> None:
        self._puller = puller
        self._account = account

    def collect(self) -> Iterator[Metric]:
        figures, totals = self._puller.figures, self._puller.totals
        branches = GaugeMetricFamily(
            "mirrorfeed_puller_branches", "Branches of the list.", labels=["state"]
        )
        for state in ("running", "due", "waiting"):
            branches.add_metric([state], getattr(figures, state))
        yield branches
        failing = GaugeMetricFamily(
            "mirrorfeed_puller_failing_branches",
            "Branches whose last attempt failed.",
            labels=["reason"],
        )
        for failure_class in FailureClass:
            failing.add_metric([failure_class], figures.failing.get(failure_class, 0))
        yield failing
        attempts = CounterMetricFamily(
            "mirrorfeed_puller_attempts", "Attempts that have ended.", labels=["outcome"]
        )
        attempts.add_metric(["completed"], totals.mirrored)
        attempts.add_metric(["failed"], totals.failed)
        attempts.add_metric(["interrupted"], totals.interrupted)
        yield attempts
        yield GaugeMetricFamily(
            "mirrorfeed_puller_overdue_seconds",
            "Since when the branch is due that has been for longest.",
            figures.overdue_seconds,
        )
        yield GaugeMetricFamily(
            "mirrorfeed_puller_paused_hosts",
            "Hosts that have asked for less, and are left alone.",
            figures.paused_hosts,
        )
        yield GaugeMetricFamily(
            "mirrorfeed_puller_mirrors_bytes", "What the mirrors take.", figures.size_bytes
        )
        if account := self._account.latest():
            yield from SpoolMetrics(account).collect()
