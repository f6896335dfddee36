"""A puller host's metrics, for Prometheus."""

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mirrorfeed.contract.cached import Cached
from mirrorfeed.publisher.account import SpoolAccount, read_account
from mirrorfeed.publisher.forward.forwarder import Forwarder

ACCOUNT_SECONDS = 5.0
"""How often a service reads its spool's account."""
STALE_SECONDS = 60.0
"""An account that is older than this is not shown."""
MODE = 0o644
"""Of a text file: node_exporter is another user."""


class SpoolMetrics(Collector):
    """One spool at one moment."""

    def __init__(self, account: SpoolAccount) -> None:
        self._account = account

    def collect(self) -> Iterator[Metric]:
        account, status = self._account, self._account.status
        yield CounterMetricFamily(
            "mirrorfeed_spool_spooled", "Events that the spool has taken.", status.spooled
        )
        yield CounterMetricFamily(
            "mirrorfeed_spool_confirmed",
            "Events that the broker has confirmed; fewer after a resend.",
            status.confirmed,
        )
        yield GaugeMetricFamily(
            "mirrorfeed_spool_pending_events", "Events that wait for the broker.", status.pending
        )
        yield GaugeMetricFamily(
            "mirrorfeed_spool_refused_events",
            "Events that the broker will never take as they are.",
            status.refused,
        )
        if status.oldest_pending_seconds is not None:
            yield GaugeMetricFamily(
                "mirrorfeed_spool_oldest_pending_timestamp_seconds",
                "When the event that has waited longest was spooled; absent if none waits.",
                time.time() - status.oldest_pending_seconds,
            )
        yield GaugeMetricFamily(
            "mirrorfeed_spool_size_bytes", "The spool's file and its log.", account.size_bytes
        )
        yield GaugeMetricFamily(
            "mirrorfeed_spool_limit_bytes",
            "The size at which the spool takes no more events.",
            account.limit_bytes,
        )
        if status.last_confirmed_at is not None:
            yield GaugeMetricFamily(
                "mirrorfeed_forwarder_last_confirm_timestamp_seconds",
                "When the broker last confirmed an event; absent if it never has.",
                status.last_confirmed_at.timestamp(),
            )


class ForwarderMetrics(Collector):
    """A forwarder and its spool."""

    def __init__(self, forwarder: Forwarder, account: Cached[SpoolAccount]) -> None:
        self._forwarder = forwarder
        self._account = account

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "mirrorfeed_forwarder_connected",
            "1 if events can be sent right now, else 0.",
            int(self._forwarder.is_connected),
        )
        yield GaugeMetricFamily(
            "mirrorfeed_forwarder_held_keys",
            "Branches and scripts whose next event the broker did not take.",
            self._forwarder.held_keys,
        )
        if account := self._account.latest():
            yield from SpoolMetrics(account).collect()


def cached_account(path: Path, limit_bytes: int) -> Cached[SpoolAccount]:
    """The account of the spool, a moment ago."""
    return Cached(
        "the spool's account",
        lambda: read_account(path, limit_bytes),
        interval_seconds=ACCOUNT_SECONDS,
        max_age_seconds=STALE_SECONDS,
    )


def write_textfile(path: Path, account: SpoolAccount) -> None:
    """Writes the metrics of a spool; whoever reads the file sees all of them or those before.

    Raises ValueError if it cannot be written.
    """
    registry = CollectorRegistry()
    registry.register(SpoolMetrics(account))
    # node_exporter reads only what ends in .prom.
    draft = path.with_name(f".{path.name}.{uuid4()}")
    try:
        try:
            with draft.open("xb") as file:
                file.write(generate_latest(registry))
            draft.chmod(MODE)  # whatever the umask is
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"the metrics cannot be written to {path}: {error.strerror}; name a file in a folder"
            " that you may write to"
        ) from error
