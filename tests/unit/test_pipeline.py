"""What is published when: in order within a key, whatever the broker answers."""

import tempfile
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from random import Random
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorfeed.contract.events import MirrorStarted
from mirrorfeed.publisher.forward.pipeline import Pipeline
from mirrorfeed.publisher.spool import Spool, SpooledEvent
from tests.builders import at


def keep_one_event(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A pipeline that keeps no more than one event in memory."""
    (first, *_) = spool.pending(after=0, limit=1)
    monkeypatch.setattr("mirrorfeed.publisher.forward.pipeline.KEPT_BYTES", len(first.body))
    return Pipeline(spool, window=10)


def append(spool: Spool, *branch_ids: int) -> None:
    with spool.writing() as writer:
        for number, branch_id in enumerate(branch_ids):
            writer.append(MirrorStarted(branch_id, at(number)), occurred_at=at(number))


def publish_all(pipeline: Pipeline, tag: int = 0) -> list[int]:
    taken: list[int] = []
    while (event := pipeline.take()) is not None:
        tag += 1
        pipeline.published(tag, event)
        taken.append(event.sequence)
    return taken


def test_a_key_has_one_unconfirmed_event(spool: Spool) -> None:
    """The next one is sent after the confirm."""
    append(spool, 1, 1, 2)
    pipeline = Pipeline(spool, window=10)
    assert publish_all(pipeline) == [1, 3]
    pipeline.acked(1, multiple=False)
    assert publish_all(pipeline, tag=2) == [2]
    assert pipeline.confirmed == [1]


def test_the_window_bounds_what_is_unconfirmed(spool: Spool) -> None:
    """A slow broker is not flooded."""
    append(spool, *range(1, 10))
    pipeline = Pipeline(spool, window=3)
    assert publish_all(pipeline) == [1, 2, 3]


def test_a_multiple_ack_confirms_all_before_it(spool: Spool) -> None:
    """RabbitMQ mixes multiple acks with single ones that come out of order."""
    append(spool, 1, 2, 3, 4)
    pipeline = Pipeline(spool, window=10)
    publish_all(pipeline)
    pipeline.acked(2, multiple=False)
    pipeline.acked(3, multiple=True)
    assert pipeline.confirmed == [2, 1, 3]
    assert [event.sequence for event in pipeline.unconfirmed] == [4]


def test_a_nacked_event_goes_again_before_its_successors(spool: Spool) -> None:
    """Other keys are not held up."""
    append(spool, 1, 1, 2, 2)
    pipeline = Pipeline(spool, window=10)
    publish_all(pipeline)
    pipeline.nacked(1, multiple=False)
    pipeline.acked(2, multiple=False)
    assert publish_all(pipeline, tag=2) == [4]
    pipeline.retry_held()
    assert publish_all(pipeline, tag=3) == [1]
    pipeline.acked(4, multiple=False)
    assert publish_all(pipeline, tag=4) == [2]


def test_a_returned_event_is_not_confirmed_by_its_ack(spool: Spool) -> None:
    """The broker acks what it could not route."""
    append(spool, 1)
    pipeline = Pipeline(spool, window=10)
    event = pipeline.take()
    assert event is not None
    pipeline.published(1, event)
    pipeline.returned(event.message_id)
    pipeline.acked(1, multiple=False)
    assert pipeline.confirmed == []
    pipeline.retry_held()
    assert publish_all(pipeline, tag=1) == [1]


def test_a_suspect_goes_alone(spool: Spool) -> None:
    """Up to the last suspect one event is sent at a time, then the whole window."""
    append(spool, 1, 2, 3, 4)
    pipeline = Pipeline(spool, window=10, careful_until=2)
    assert publish_all(pipeline) == [1]
    pipeline.acked(1, multiple=False)
    assert publish_all(pipeline, tag=1) == [2, 3, 4]


def test_a_key_can_be_held_from_the_beginning(spool: Spool) -> None:
    """A key whose event the broker did not allow last time goes after all others."""
    append(spool, 1, 2, 1, 3)
    pipeline = Pipeline(spool, window=10, held=["branch:1"])
    assert publish_all(pipeline) == [2, 4]
    pipeline.retry_held()
    assert publish_all(pipeline, tag=2) == [1]
    pipeline.acked(3, multiple=False)
    assert publish_all(pipeline, tag=3) == [3]


def test_what_was_put_back_is_found_behind_the_cursor(spool: Spool) -> None:
    """Once everything else is sent and forgotten, the pipeline starts from the beginning again."""
    append(spool, 1, 2)
    spool.refuse(1, "too large")
    pipeline = Pipeline(spool, window=10)
    assert publish_all(pipeline) == [2]
    pipeline.acked(1, multiple=False)
    assert publish_all(pipeline, tag=1) == []
    spool.remove(pipeline.confirmed)
    pipeline.confirmed.clear()
    spool.restore_refused()
    pipeline.look_again()
    assert publish_all(pipeline, tag=1) == []
    pipeline.look_again()
    assert publish_all(pipeline, tag=1) == [1]


def with_a_held_key(spool: Spool) -> tuple[Pipeline, SpooledEvent]:
    """A pipeline that waits with branch 1, and the event of branch 2 that it has sent before."""
    append(spool, 1, 2)
    pipeline = Pipeline(spool, window=10)
    publish_all(pipeline)
    pipeline.nacked(1, multiple=False)
    (sent,) = pipeline.acked(2, multiple=False)
    spool.remove(pipeline.confirmed)
    pipeline.confirmed.clear()
    return pipeline, sent


def test_what_is_put_back_while_a_key_is_held_is_missed(path: Path, spool: Spool) -> None:
    """This pipeline says so, and a new one sends it."""
    pipeline, sent = with_a_held_key(spool)
    assert not pipeline.has_missed()
    with closing(Spool(path)) as other:
        assert other.put_back([sent]) == 1
    pipeline.look_again()
    assert publish_all(pipeline, tag=2) == []
    assert pipeline.has_missed()
    another = Pipeline(spool, window=10)
    assert publish_all(another) == [1, 2]
    assert not another.has_missed()


def test_refused_events_are_missed_too(path: Path, spool: Spool) -> None:
    """Once somebody has made them pending again."""
    append(spool, 3)
    spool.refuse(1, "too large")
    pipeline, _ = with_a_held_key(spool)
    assert not pipeline.has_missed()
    with closing(Spool(path)) as other:
        assert other.restore_refused() == 1
    assert pipeline.has_missed()


def test_what_it_sends_and_sets_aside_itself_is_not_missed(spool: Spool) -> None:
    """Nor is what others append."""
    pipeline, _ = with_a_held_key(spool)
    append(spool, 2, 3)
    pipeline.look_again()
    assert publish_all(pipeline, tag=2) == [3, 4]
    pipeline.acked(3, multiple=False)
    spool.remove(pipeline.confirmed)
    spool.refuse(4, "too large")
    assert not pipeline.has_missed()


def test_the_spool_is_read_to_its_end_once(spool: Spool) -> None:
    """Events appended later are found when the pipeline is told to look again."""
    append(spool, 1)
    pipeline = Pipeline(spool, window=10)
    assert publish_all(pipeline) == [1]
    append(spool, 2)
    assert publish_all(pipeline, tag=1) == []
    pipeline.look_again()
    assert publish_all(pipeline, tag=1) == [2]


def test_it_is_idle_while_no_confirm_is_to_come(spool: Spool) -> None:
    """A held key does not count, since it waits for a retry and not for a confirm."""
    append(spool, 1, 2)
    pipeline = Pipeline(spool, window=10)
    assert pipeline.is_idle
    publish_all(pipeline)
    pipeline.acked(1, multiple=False)
    assert not pipeline.is_idle
    pipeline.nacked(2, multiple=False)
    assert pipeline.is_idle


def test_no_more_is_read_than_is_kept_in_memory(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key behind many events of busy keys gets its turn once some are confirmed."""
    append(spool, 1, 1, 1, 2)
    pipeline = keep_one_event(spool, monkeypatch)
    assert publish_all(pipeline) == [1]
    pipeline.acked(1, multiple=False)
    assert publish_all(pipeline, tag=1) == [2, 4]


def test_what_waits_behind_a_held_key_keeps_no_other_waiting(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read again, in order, when its turn comes."""
    append(spool, 1, 1, 1, 1, 2)
    pipeline = keep_one_event(spool, monkeypatch)
    assert publish_all(pipeline) == [1]
    pipeline.nacked(1, multiple=False)
    assert publish_all(pipeline, tag=1) == [5]
    pipeline.retry_held()
    for tag in (3, 4, 5, 6):
        assert publish_all(pipeline, tag=tag - 1) == [tag - 2]
        pipeline.acked(tag, multiple=False)
    assert pipeline.confirmed == [1, 2, 3, 4]


def test_what_waits_for_a_silent_queue_keeps_no_other_waiting(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue without a leader neither confirms nor refuses, yet in the end nothing is left out."""
    append(spool, 1, 1, 1, 1, 2)
    pipeline = keep_one_event(spool, monkeypatch)
    assert publish_all(pipeline) == [1]
    pipeline.read_on()
    assert publish_all(pipeline, tag=1) == [5]
    for tag in (1, 3, 4, 5):
        pipeline.acked(tag, multiple=False)
        publish_all(pipeline, tag=max(tag, 2))
    assert pipeline.confirmed == [1, 2, 3, 4]


@settings(deadline=None, max_examples=50)
@given(
    keys=st.lists(st.integers(1, 4), min_size=1, max_size=30),
    answers=st.lists(st.sampled_from(["ack", "nack", "return", "silence"]), max_size=60),
    window=st.integers(1, 5),
    kept_bytes=st.integers(0, 3000),
    choices=st.randoms(use_true_random=False),
)
def test_whatever_the_broker_answers_each_key_stays_in_order(
    keys: list[int], answers: list[str], window: int, kept_bytes: int, choices: Random
) -> None:
    """In the end every event is confirmed once, in the order of the calls within each key."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Spool(Path(folder) / "spool.db")) as spool,
        mock.patch("mirrorfeed.publisher.forward.pipeline.KEPT_BYTES", kept_bytes),
    ):
        append(spool, *keys)
        pipeline = Pipeline(spool, window=window)
        tag = 0
        open_tags: dict[int, SpooledEvent] = {}
        confirmed: dict[str, list[int]] = defaultdict(list)
        todo = list(answers)
        while True:
            while (event := pipeline.take()) is not None:
                tag += 1
                pipeline.published(tag, event)
                open_tags[tag] = event
            if not open_tags:
                if not pipeline.held:
                    break
                pipeline.retry_held()
                continue
            answer = todo.pop() if todo else "ack"
            if answer == "silence":
                pipeline.read_on()
                continue
            answered = choices.choice(list(open_tags))
            event = open_tags.pop(answered)
            if answer == "nack":
                pipeline.nacked(answered, multiple=False)
                continue
            if answer == "return":
                pipeline.returned(event.message_id)
            else:
                confirmed[event.partition_key].append(event.sequence)
            pipeline.acked(answered, multiple=False)
        spool.close()
    assert sorted(pipeline.confirmed) == list(range(1, len(keys) + 1))
    assert all(order == sorted(order) for order in confirmed.values())
