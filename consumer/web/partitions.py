"""The partitions: what waits in each, and who consumes it."""

import re
from typing import Any

from mirrorfeed.consumer.health import WorkerState
from mirrorfeed.consumer.web.watch import View
from mirrorfeed.contract import routing

QUEUE = re.compile(r"mirror\.events\.(interim\.)?p(\d+)")


def named(queue: str) -> str:
    """Such as `Partition 2`; what is no queue of ours stays as it is."""
    match = QUEUE.fullmatch(queue)
    if match is None:
        return queue
    return f"Interim partition {match[2]}" if match[1] else f"Partition {match[2]}"


def partitions(view: View | None) -> list[dict[str, Any]]:
    """Each queue that the workers should consume; empty if that is not known."""
    if view is None or view.seen is None:
        return []
    seen = view.seen
    problems = {each.subject: each.because for each in seen.problems}
    rows = []
    for index, queue in enumerate(seen.queues):
        worker = _worker_of(queue, seen.workers)
        counts = None if seen.counts is None else seen.counts.get(queue)
        rows.append(
            {
                "queue": queue,
                "name": named(queue),
                "slots": routing.slots(index, len(seen.queues)),
                "waiting": counts and counts.ready,
                "consumers": counts and counts.consumers,
                "worker": worker and worker_name(worker),
                "is_subscribed": worker is not None and queue in worker.subscribed,
                "settled_per_second": round(view.rates.get(queue, 0.0), 1),
                "problem": problems.get(queue),
            }
        )
    return rows


def workers(view: View | None) -> list[dict[str, Any]]:
    """The running workers, the oldest first, and what they say of themselves."""
    if view is None or view.seen is None:
        return []
    problems: dict[str, list[str]] = {}
    for each in view.seen.problems:
        problems.setdefault(each.subject, []).append(each.because)
    return [
        {
            "name": worker_name(worker),
            "queues": sorted(worker.subscribed),
            "partitions": ", ".join(named(each).split()[-1] for each in sorted(worker.subscribed)),
            "settled": sum(worker.report.settled.values()),
            "waits": _words(worker.report.waits),
            "aside": _words(worker.report.aside),
            "batch_seconds": worker.report.batch_seconds,
            "problems": problems.get(worker.name, []),
        }
        for worker in view.seen.workers
    ]


def place_of(branch_id: int, view: View | None) -> dict[str, Any] | None:
    """The partition that a branch's events go through, and their slot; None if that is not
    known."""
    rows = partitions(view)
    if not rows:
        return None
    slot = routing.slot_of(f"branch:{branch_id}")
    return {**rows[slot % len(rows)], "slot": slot}


def worker_name(worker: WorkerState) -> str:
    """Such as `vostok, process 812`."""
    return worker.name.removeprefix("the worker on ")


def _worker_of(queue: str, workers: list[WorkerState]) -> WorkerState | None:
    return next((worker for worker in workers if queue in worker.own), None)


def _words(wait: object) -> str | None:
    return None if wait is None else str(wait)
