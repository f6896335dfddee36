"""What a worker counts, and how Prometheus reads it."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from mirrorfeed.consumer.apply.applier import Tally
from mirrorfeed.consumer.worker.counts import DELAY_BOUNDS, LONGEST_DELAY, Counts, Histogram
from mirrorfeed.consumer.worker.metrics import WorkerMetrics
from mirrorfeed.consumer.worker.progress import Progress
from mirrorfeed.contract.events import MirrorStarted
from mirrorfeed.contract.reasons import Reason
from tests.probes import samples


def read(progress: Progress) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(WorkerMetrics(progress))
    return samples(generate_latest(registry).decode(), "mirrorfeed_worker_")


def test_a_value_lies_below_the_first_bound_that_it_does_not_exceed() -> None:
    """So does Prometheus count."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.add(value)
    assert (histogram.counts, histogram.sum) == ([2, 2, 1], 7.5)


@given(st.lists(st.integers(-2_000_000, 100_000_000), max_size=50))
def test_many_delays_are_counted_as_one_by_one(milliseconds: list[int]) -> None:
    """In any order; only a sum below nothing counts as nothing."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    delays = [timedelta(milliseconds=each) for each in milliseconds]
    together, each_alone = Histogram(DELAY_BOUNDS), Histogram(DELAY_BOUNDS)
    together.add_seconds_since([now - delay for delay in delays], now)
    for delay in delays:
        each_alone.add(delay.total_seconds())
    assert together.counts == each_alone.counts
    assert together.sum == pytest.approx(max(0.0, each_alone.sum))


def test_the_sum_of_many_delays_is_near_enough() -> None:
    """Although not each of them is looked at."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    histogram = Histogram(DELAY_BOUNDS)
    histogram.add_seconds_since([now - timedelta(seconds=each) for each in range(1000)], now)
    assert histogram.sum == pytest.approx(sum(range(1000)), rel=0.02)


def test_a_time_that_is_made_up_does_not_spoil_the_sum() -> None:
    """Nor end the worker, however many there are."""
    histogram = Histogram(DELAY_BOUNDS)
    histogram.add_seconds_since([datetime(1, 1, 1, tzinfo=UTC)] * 10_000, datetime.now(UTC))
    assert histogram.counts[-1] == 10_000
    assert histogram.sum == 10_000 * LONGEST_DELAY.total_seconds()


def test_a_delay_lasts_from_the_event_to_its_commit() -> None:
    """By the puller's clock."""
    progress = Progress()
    now = datetime.now(UTC)
    times = [now, now - timedelta(seconds=20), now - timedelta(days=2)]
    progress.counts.committed(Tally(3, Counter(), happened_at=times))
    seen = read(progress)
    bounds = ("10.0", "30.0", "86400.0", "+Inf")
    assert [seen["event_delay_seconds_bucket", bound] for bound in bounds] == [1, 2, 2, 3]
    assert seen["event_delay_seconds_count",] == 3
    assert seen["last_commit_timestamp_seconds",] == pytest.approx(now.timestamp(), abs=60)


def test_no_publisher_can_make_a_label() -> None:
    """Whatever it calls its events."""
    progress = Progress()
    progress.counts.committed(
        Tally(
            2,
            Counter({Reason.UNKNOWN_TYPE: 2, Reason.INVALID: 1}),
            0,
            {MirrorStarted: 2},
            Counter({"evil\n": 1, None: 1, "mirror.failed": 1}),
        )
    )
    seen = read(progress)
    events = {key[1:]: value for key, value in seen.items() if key[0] == "events_total"}
    assert {labels: value for labels, value in events.items() if value} == {
        ("applied", "mirror.started"): 2,
        ("buried", "mirror.failed"): 1,
        ("buried", "other"): 2,
    }
    assert len(events) == 12
    assert seen["buried_total", "unknown-type"] == 2
    assert seen["buried_total", "too-large"] == 0


def test_deliveries_are_counted_over_all_sessions() -> None:
    """What a lost session had in hand is delivered again, and is not in hand meanwhile."""
    progress = Progress()
    channel = cast("Any", type("Channel", (), {"is_open": True}))
    first = progress.counts.subscribed("q", 10)
    first.channel = channel
    first.received += 5
    first.settled += 3
    seen = read(progress)
    assert (seen["deliveries_total", "q"], seen["in_hand_events",]) == (5, 2)
    second = progress.counts.subscribed("q", 10)
    assert (second.received, second.in_hand) == (5, 0)
    second.channel = channel
    second.received += 2
    seen = read(progress)
    assert (seen["deliveries_total", "q"], seen["in_hand_events",]) == (7, 2)


def test_a_batch_is_counted_with_its_size_and_its_time() -> None:
    """And there is none in hand any more."""
    progress = Progress()
    progress.batch_began()
    assert read(progress)["batch_in_hand_seconds",] > 0
    progress.batch_ended(40)
    seen = read(progress)
    assert seen["batch_in_hand_seconds",] == 0
    assert seen["batch_events_bucket", "30.0"] == 0
    assert seen["batch_events_bucket", "100.0"] == seen["batch_duration_seconds_count",] == 1


def test_what_has_not_happened_yet_is_zero() -> None:
    """So that a first time is an increase; but a worker that never committed has no time of it."""
    seen = read(Progress())
    assert seen["sessions_total", "broker"] == seen["database_retries_total",] == 0
    assert ("last_commit_timestamp_seconds",) not in seen
    assert Counts().redeliveries == 0
