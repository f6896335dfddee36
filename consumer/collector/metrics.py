"""The collector's metrics, for Prometheus."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import Metric
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mirrorfeed.consumer.collector.reading import InDatabase, Reading
from mirrorfeed.consumer.health import QueueCounts
from mirrorfeed.contract.cached import Cached
from mirrorfeed.contract.reasons import Reason


class CollectorMetrics(Collector):
    """The latest reading."""

    def __init__(self, readings: Cached[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        reading = self._readings.latest()
        yield GaugeMetricFamily(
            "mirrorfeed_collector_success",
            "1 if the latest look found the database and the broker, else 0.",
            int(reading is not None and reading.is_complete),
        )
        if reading is None:
            return
        yield GaugeMetricFamily(
            "mirrorfeed_collector_duration_seconds",
            "How long the latest look took.",
            reading.duration_seconds,
        )
        if reading.database is not None:
            yield from _of_database(reading.database)
        if reading.queues is not None:
            yield from _of_broker(reading.queues, reading.stalled_seconds)


def _of_database(found: InDatabase) -> Iterator[Metric]:
    yield _by_label("mirrorfeed_branches", "Branches by state.", "state", found.branches)
    yield _by_label(
        "mirrorfeed_branches_stale",
        "Branches without a success for so long.",
        "older_than",
        found.stale,
    )
    counts = dict.fromkeys(Reason, 0) | {
        reason: letters.count for reason, letters in found.letters.items()
    }
    yield _by_label("mirrorfeed_dead_letters", "Dead letters by reason.", "reason", counts)
    yield _by_label(
        "mirrorfeed_dead_letter_oldest_timestamp_seconds",
        "When the oldest dead letter was first seen; absent if there is none.",
        "reason",
        {reason: letters.oldest_at.timestamp() for reason, letters in found.letters.items()},
    )
    yield GaugeMetricFamily(
        "mirrorfeed_dead_letters_not_kept",
        "Messages that could not be applied and were only counted, because there were too many.",
        found.letters_not_kept,
    )
    yield GaugeMetricFamily(
        "mirrorfeed_audit_missing_events",
        "Events that have not arrived although later ones have.",
        found.missing_events,
    )
    yield GaugeMetricFamily(
        "mirrorfeed_audit_missing_oldest_seconds",
        "For how long the first of them has been missing; 0 if none is.",
        found.missing_oldest_seconds,
    )
    yield _by_label(
        "mirrorfeed_sources",
        "Hosts whose spools report, and other sources, by whether they were heard lately.",
        "state",
        {"heard": found.heard_hosts, "silent": found.silent_hosts},
    )
    yield GaugeMetricFamily("mirrorfeed_workers", "Running workers.", len(found.workers))
    scripts = GaugeMetricFamily(
        "mirrorfeed_script_last_completed_timestamp_seconds",
        "When a listed script last completed; 0 if never.",
        labels=["script", "host"],
    )
    for each in found.scripts:
        seen = 0.0 if each.last_seen is None else each.last_seen.timestamp()
        scripts.add_metric([each.script.name, each.script.hostname], seen)
    yield scripts


def _of_broker(
    queues: dict[str, QueueCounts], stalled_seconds: dict[str, float]
) -> Iterator[Metric]:
    yield _by_label(
        "mirrorfeed_queue_ready",
        "Messages that no worker has in hand.",
        "queue",
        {queue: counts.ready for queue, counts in queues.items()},
    )
    yield _by_label(
        "mirrorfeed_queue_consumers",
        "Workers that the broker serves from the queue.",
        "queue",
        {queue: counts.consumers for queue, counts in queues.items()},
    )
    yield _by_label(
        "mirrorfeed_queue_stalled_seconds",
        "For how long messages have waited and none was settled; small if all is well.",
        "queue",
        stalled_seconds,
    )


def _by_label(name: str, documentation: str, label: str, values: dict[Any, Any]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for value, number in values.items():
        family.add_metric([str(value)], number)
    return family
