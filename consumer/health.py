"""Is everything well? One set of rules, for commands, probes, metrics and pages alike.

Workers say themselves how they are, by the threads that do the work (`Report`). A worker is live as
long as a restart would not help it, and ready if it does all that it should. A partition makes
progress if no message waits in it in vain.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from msgspec import Struct, convert
from sqlalchemy import Connection

from mirrorfeed.consumer.partitions.assignment import living, owners

LOOP_SECONDS = 30.0
"""A worker whose I/O loop has not turned for this long hangs. It turns every second, and every few
seconds if it has too much in hand."""
BATCH_SECONDS = 360.0
"""A batch is retried for five minutes, and then goes back to the broker."""
STALLED_SECONDS = 60.0
"""After this long, a partition in which messages wait and none is settled stands still."""


class Kind(StrEnum):
    """What is not so."""

    LIVE = "live"
    READY = "ready"
    PROGRESS = "progress"


class Problem(Struct, frozen=True):
    """Something that is not well, in words."""

    kind: Kind
    subject: str
    """A worker or a queue."""
    because: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.because}"


class Wait(Struct, frozen=True):
    """Something that a worker waits for."""

    what: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.what}, for {rounded(self.seconds)}"


class Report(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker says of itself. All durations end now."""

    is_connected: bool = True
    """To the broker. If it is not, it has no part in what is to be consumed."""
    turned_seconds: float = 0.0
    """Since its I/O loop last turned."""
    batch_seconds: float | None = None
    """Since the batch in hand began; None if there is none."""
    waits: Wait | None = None
    """What keeps it from applying anything at all."""
    aside: Wait | None = None
    """What it has set aside, because somebody has locked it."""
    settled: dict[str, int] = {}
    """How many messages of each queue it has settled."""
    unmoved_seconds: dict[str, float] = {}
    """For each queue, since it last settled a message, or had none to settle."""

    def aged(self, seconds: float) -> "Report":
        """The same, said that long ago."""
        return Report(
            is_connected=self.is_connected,
            turned_seconds=self.turned_seconds + seconds,
            batch_seconds=None if self.batch_seconds is None else self.batch_seconds + seconds,
            waits=self.waits and Wait(self.waits.what, self.waits.seconds + seconds),
            aside=self.aside and Wait(self.aside.what, self.aside.seconds + seconds),
            settled=self.settled,
            unmoved_seconds={
                queue: unmoved + seconds for queue, unmoved in self.unmoved_seconds.items()
            },
        )


class WorkerState(Struct, frozen=True):
    """A running worker."""

    name: str
    own: frozenset[str]
    """The queues that it should consume."""
    subscribed: frozenset[str]
    report: Report


class QueueCounts(Struct, frozen=True):
    """What the broker says of a queue."""

    ready: int
    """Messages that no consumer has in hand."""
    consumers: int


def worker_states(connection: Connection, queues: Sequence[str]) -> list[WorkerState]:
    """The running workers, the oldest first, and what they say of themselves."""
    members = living(connection)
    dealt = owners(queues, members)
    return [
        WorkerState(
            f"the worker on {member.hostname}, process {member.pid}",
            frozenset(queue for queue, owner in dealt.items() if owner is member),
            member.queues,
            # A worker of 0.1.0 says nothing of itself.
            convert(member.report or {}, Report).aged(member.silent_seconds),
        )
        for member in members
    ]


def why_not_live(report: Report) -> str | None:
    """Why only a restart would help; None if the worker is live. A server that is away is no such
    reason."""
    if report.turned_seconds > LOOP_SECONDS:
        return f"its I/O thread has hung for {rounded(report.turned_seconds)}"
    if report.batch_seconds is not None and report.batch_seconds > BATCH_SECONDS:
        return f"it has had one batch in hand for {rounded(report.batch_seconds)}"
    return None


def why_not_ready(worker: WorkerState) -> str | None:
    """Why the worker does not do all that it should; None if it is ready."""
    if worker.report.waits is not None:
        return f"it waits: {worker.report.waits}"
    if not worker.report.is_connected:
        return "it is not connected to the broker"
    if missing := sorted(worker.own - worker.subscribed):
        return f"it is not subscribed to {', '.join(missing)}"
    return None


def why_stalled(worker: WorkerState, queue: str, after_seconds: float) -> str | None:
    """Why messages wait in vain in a queue that the worker consumes; None if they do not."""
    report = worker.report
    unmoved_seconds = report.unmoved_seconds.get(queue, 0.0)
    if unmoved_seconds <= after_seconds:
        return None
    for wait in (report.waits, report.aside):
        if wait is not None:
            return f"{worker.name} waits: {wait}"
    if report.batch_seconds is not None and report.batch_seconds > after_seconds:
        return f"{worker.name} has had one batch in hand for {rounded(report.batch_seconds)}"
    if hangs := why_not_live(report):
        return f"{worker.name}: {hangs}"
    return (
        f"{worker.name} has settled nothing for {rounded(unmoved_seconds)}, and gets nothing from"
        " the broker: restart it"
    )


def examine(
    queues: Sequence[str],
    workers: Sequence[WorkerState],
    counts: Mapping[str, QueueCounts] | None,
    *,
    stalled_seconds: float = STALLED_SECONDS,
) -> list[Problem]:
    """Everything that is not well. `queues` are those that the workers are to consume; `counts` has
    those that exist. Without it, because the broker cannot be asked, nothing is said of progress.
    """
    problems = []
    for worker in workers:
        if because := why_not_live(worker.report):
            problems.append(Problem(Kind.LIVE, worker.name, because))
        if because := why_not_ready(worker):
            problems.append(Problem(Kind.READY, worker.name, because))
    if counts is None:
        return problems
    for queue in queues:
        if queue not in counts:
            because = "the queue is not there: mirror-consumer init declares it"
            problems.append(Problem(Kind.PROGRESS, queue, because))
            continue
        consuming = [worker for worker in workers if queue in worker.subscribed]
        consuming.sort(key=lambda worker: queue not in worker.own)
        if not consuming:
            is_owned = any(queue in worker.own for worker in workers)
            # An owner that has just subscribed says so in a moment; till then it is not ready.
            if not (is_owned and counts[queue].consumers):
                problems.append(_unconsumed(queue, counts[queue]))
            continue
        # Where one consumer is active and the others stand by, only the active one moves.
        reasons = [why_stalled(worker, queue, stalled_seconds) for worker in consuming]
        if reasons[0] is not None and None not in reasons:
            problems.append(Problem(Kind.PROGRESS, queue, reasons[0]))
    return problems


def _unconsumed(queue: str, counts: QueueCounts) -> Problem:
    if counts.consumers:
        because = "whoever consumes it has not been heard of for 10 s: restart that worker"
        return Problem(Kind.PROGRESS, queue, because)
    kind = Kind.PROGRESS if counts.ready else Kind.READY
    waiting = f", and {counts.ready:,} messages wait" if counts.ready else ""
    return Problem(kind, queue, f"no worker consumes it{waiting}: start mirror-consumer run")


def rounded(seconds: float) -> str:
    """A duration as people say it, such as `4 min`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
