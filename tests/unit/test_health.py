"""The rules by which everything else says whether all is well."""

from msgspec.structs import replace

from mirrorfeed.consumer.health import (
    BATCH_SECONDS,
    LOOP_SECONDS,
    Kind,
    QueueCounts,
    Report,
    Wait,
    WorkerState,
    examine,
    why_not_live,
)

QUEUES = ["mirror.events.p0", "mirror.events.p1"]
P0, P1 = QUEUES
IDLE = QueueCounts(ready=0, consumers=1)
WELL = Report(turned_seconds=0.5, unmoved_seconds={P0: 1, P1: 1})
LOCKED = Wait("the database is locked by pid 4711", 240)


def problems(report: Report, subscribed: set[str] | None = None) -> list[str]:
    worker = WorkerState(
        "vostok, process 17",
        own=frozenset(QUEUES),
        subscribed=frozenset(QUEUES if subscribed is None else subscribed),
        report=report,
    )
    found = examine(QUEUES, [worker], dict.fromkeys(QUEUES, IDLE))
    return [f"{each.kind}: {each}" for each in found]


def test_a_worker_that_does_all_it_should_is_well() -> None:
    """However long nothing has come."""
    assert problems(WELL) == []


def test_a_thread_that_hangs_makes_a_worker_not_live() -> None:
    """Either of them: the other one goes on, and says so."""
    assert why_not_live(replace(WELL, turned_seconds=LOOP_SECONDS + 1)) is not None
    assert why_not_live(replace(WELL, batch_seconds=BATCH_SECONDS + 1)) is not None


def test_a_server_that_is_away_makes_a_worker_unready_and_not_dead() -> None:
    """A restart would not help."""
    (problem,) = problems(replace(WELL, waits=Wait("the database is away", 3600)))
    assert problem == "ready: vostok, process 17: it waits: the database is away, for 60 min"


def test_a_partition_that_stands_among_moving_ones_is_named() -> None:
    """With the cause, if the worker knows it."""
    standing = replace(WELL, unmoved_seconds={P0: 1, P1: 90})
    assert problems(standing) == [
        f"progress: {P1}: vostok, process 17 has settled nothing for 90 s, and gets nothing from"
        " the broker: restart it"
    ]
    assert problems(replace(standing, batch_seconds=80)) == [
        f"progress: {P1}: vostok, process 17 has had one batch in hand for 80 s"
    ]
    assert problems(replace(standing, aside=LOCKED)) == [
        f"progress: {P1}: vostok, process 17 waits: the database is locked by pid 4711, for 4 min"
    ]


def test_a_branch_that_waits_aside_is_no_problem_while_its_partition_moves() -> None:
    """Who wants to know reads it in the worker's log."""
    assert problems(replace(WELL, aside=LOCKED)) == []


def test_a_queue_that_nobody_consumes_is_named() -> None:
    """Whether or not anything waits in it; and a consumer of whom nobody has heard is none."""
    nobody = {P0: QueueCounts(0, 0), P1: QueueCounts(5, 0)}
    assert [str(each) for each in examine(QUEUES, [], nobody)] == [
        f"{P0}: no worker consumes it: start mirror-consumer run",
        f"{P1}: no worker consumes it, and 5 messages wait: start mirror-consumer run",
    ]
    kinds = [each.kind for each in examine(QUEUES, [], dict.fromkeys(QUEUES, IDLE))]
    assert kinds == [Kind.PROGRESS, Kind.PROGRESS]
    assert problems(WELL, subscribed={P0}) == [
        f"ready: vostok, process 17: it is not subscribed to {P1}"
    ]


def test_a_queue_that_is_not_there_is_named() -> None:
    """Whoever thinks that it consumes it."""
    state = WorkerState("vostok, process 17", frozenset(QUEUES), frozenset(QUEUES), WELL)
    assert [str(each) for each in examine(QUEUES, [state], {P0: IDLE})] == [
        f"{P1}: the queue is not there: mirror-consumer init declares it"
    ]


def test_of_a_broker_that_is_away_only_the_workers_tell() -> None:
    """They live, and they are not ready; nobody knows of progress."""
    away = Wait("the broker is away", 20.0)
    state = WorkerState(
        "vostok, process 17", frozenset(QUEUES), frozenset(), replace(WELL, waits=away)
    )
    assert [str(each) for each in examine(QUEUES, [state], None)] == [
        "vostok, process 17: it waits: the broker is away, for 20 s"
    ]


def test_a_standby_that_moves_is_enough() -> None:
    """On a queue with a single active consumer, only one of those who are subscribed gets
    anything."""
    states = [
        WorkerState("one", frozenset(), frozenset(QUEUES), replace(WELL, unmoved_seconds={P0: 90})),
        WorkerState("two", frozenset(QUEUES), frozenset(QUEUES), WELL),
    ]
    assert examine(QUEUES, states, dict.fromkeys(QUEUES, IDLE)) == []


def test_what_was_said_a_while_ago_lasts_since_then() -> None:
    """All durations in it grow."""
    said = Report(
        turned_seconds=1, batch_seconds=2, waits=LOCKED, aside=LOCKED, unmoved_seconds={P0: 3}
    )
    assert said.aged(10) == Report(
        turned_seconds=11,
        batch_seconds=12,
        waits=Wait(LOCKED.what, 250),
        aside=Wait(LOCKED.what, 250),
        unmoved_seconds={P0: 13},
    )
