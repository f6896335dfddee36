"""A worker's metrics, for Prometheus."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mirrorfeed.consumer.worker.counts import Counts, Histogram
from mirrorfeed.consumer.worker.progress import Progress


class WorkerMetrics(Collector):
    """What a worker does and has done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def collect(self) -> Iterator[Metric]:
        counts = self._progress.counts
        yield from _deliveries(counts)
        yield from _events(counts)
        yield _histogram(
            "mirrorfeed_worker_batch_duration_seconds",
            "How long a batch took, from when it was taken until it was committed.",
            counts.batch_seconds,
        )
        yield _histogram(
            "mirrorfeed_worker_batch_events", "How many events a batch had.", counts.batch_events
        )
        yield _histogram(
            "mirrorfeed_worker_event_delay_seconds",
            "From when an event happened, by the puller's clock, until it was committed.",
            counts.event_delay_seconds,
        )
        yield GaugeMetricFamily(
            "mirrorfeed_worker_batch_in_hand_seconds",
            "How long the batch in hand has been so; 0 if there is none.",
            self._progress.report((), is_connected=False).batch_seconds or 0.0,
        )
        if counts.last_commit_at is not None:
            yield GaugeMetricFamily(
                "mirrorfeed_worker_last_commit_timestamp_seconds",
                "When the latest batch was committed; absent before the first one.",
                counts.last_commit_at.timestamp(),
            )
        sessions = CounterMetricFamily(
            "mirrorfeed_worker_sessions", "Sessions that have ended, and why.", labels=["end"]
        )
        for end, count in counts.sessions.copy().items():
            sessions.add_metric([end], count)
        yield sessions
        yield CounterMetricFamily(
            "mirrorfeed_worker_database_retries",
            "How often a batch was tried again.",
            counts.database_retries,
        )


def _deliveries(counts: Counts) -> Iterator[Metric]:
    deliveries = CounterMetricFamily(
        "mirrorfeed_worker_deliveries", "Messages that the broker has delivered.", labels=["queue"]
    )
    in_hand = 0
    for queue, subscription in counts.subscriptions.copy().items():
        deliveries.add_metric([queue], subscription.received)
        in_hand += subscription.in_hand if subscription.is_open else 0
    yield deliveries
    yield CounterMetricFamily(
        "mirrorfeed_worker_redeliveries",
        "Messages that had been delivered before, to this worker or another.",
        counts.redeliveries,
    )
    yield GaugeMetricFamily(
        "mirrorfeed_worker_in_hand_events", "Messages that are not acked yet.", in_hand
    )


def _events(counts: Counts) -> Iterator[Metric]:
    events = CounterMetricFamily(
        "mirrorfeed_worker_events",
        "Events that are committed, as applied or as buried.",
        labels=["type", "outcome"],
    )
    for labels, count in counts.events.copy().items():
        events.add_metric(labels, count)
    yield events
    buried = CounterMetricFamily(
        "mirrorfeed_worker_buried", "Messages that have become letters, and why.", labels=["reason"]
    )
    for reason, count in counts.buried.copy().items():
        buried.add_metric([reason], count)
    yield buried


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    counts = accumulate(histogram.counts.copy())
    bounds = (*map(floatToGoString, histogram.bounds), "+Inf")
    family = HistogramMetricFamily(name, documentation)
    family.add_metric([], list(zip(bounds, counts, strict=True)), histogram.sum)
    return family
