"""Whether a worker is as fast after years as on its first day; writes docs/benchmarks/growth.md.

Takes long: `make bench-growth`, or `python -m benchmarks growth` where matplotlib is installed.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import years
from benchmarks.backlog import Backlog, drain_backlog
from benchmarks.drain import drain_by_worker
from benchmarks.growth_section import Cell, check_can_draw, write_section
from benchmarks.load import BRANCHES, publications, publish
from benchmarks.report import Row, Target
from benchmarks.stand import Stand

SECTION = Path("docs/benchmarks/growth.md")
BRANCH_COUNTS = (1_000, 100_000, 1_000_000)
ATTEMPT_COUNTS = (0, 1_000_000, 20_000_000)
EVENTS = 120_000
"""In one round: events of a second one would be older than what the first has brought."""
STRIDE = 7919
"""From one branch to the next that begins: a prime, so that all have their turn, far apart."""
KEEPS = 0.7
"""Of the best rate, whatever has grown."""
FAILING = BRANCHES
"""The last one: one of those of which each attempt fails."""
FAILING_ATTEMPTS = 100_000
FAILING_TURN = 100
"""Its attempt is each of so many, so that a batch has some."""
FAILING_ROUNDS = 2
OTHER_ATTEMPTS = 100_000
"""What all together have, so that the planner does not know this one branch alone."""
BACKLOG_EVENTS = 2_000_000
LIMIT_MEGABYTES = 150


def measure(stand: Stand) -> list[Row]:
    check_can_draw()
    cells = measure_grid(stand)
    failing = measure_failing(stand)
    backlog = drain_backlog(stand, BACKLOG_EVENTS)
    rows = [*(cell.row for cell in cells), *failing, *rows_of_backlog(backlog)]
    write_section(SECTION, rows, cells, backlog, stand.servers)
    return rows


def measure_grid(stand: Stand) -> list[Cell]:
    """The worker's rate behind each number of branches and of attempts."""
    rates = {
        (branches, attempts): [_rate_after(stand, branches, attempts)]
        for branches in BRANCH_COUNTS
        for attempts in ATTEMPT_COUNTS
    }
    subject = "worker, draining a backlog, by what is in the tables"
    best = max((_row(subject, *size, rates[size]) for size in rates), key=lambda row: row.median)
    return [
        Cell(*size, _row(subject, *size, rates[size], best, [Target("≥", KEEPS)])) for size in rates
    ]


def _row(
    subject: str,
    branches: int,
    attempts: int,
    rates: Sequence[float],
    best: Row | None = None,
    targets: Sequence[Target] = (),
) -> Row:
    what = f"{branches:,} branches, {attempts:,} attempts"
    return Row(subject, what, "events/s", rates, best, targets)


def _rate_after(stand: Stand, branches: int, attempts: int) -> float:
    years.live(stand, branches, attempts)
    return _drained(stand, [number * STRIDE % branches + 1 for number in range(branches)])


def _drained(stand: Stand, branch_ids: Sequence[int]) -> float:
    """Events a second."""
    batch = publications(EVENTS, branch_ids)
    publish(stand.amqp_url, batch)
    return len(batch) / drain_by_worker(stand, batch)


def measure_failing(stand: Stand) -> list[Row]:
    """The rate of all together while one branch fails, with and without a long past of doing so."""
    branch_ids = [
        number % (FAILING - 1) + 1 if number % FAILING_TURN else FAILING for number in range(EVENTS)
    ]
    without: list[float] = []
    with_past: list[float] = []
    for _ in range(FAILING_ROUNDS):
        years.live(stand, BRANCHES, OTHER_ATTEMPTS)
        without.append(_drained(stand, branch_ids))
        years.live(stand, BRANCHES, OTHER_ATTEMPTS)
        years.add_failing_attempts(stand, FAILING, FAILING_ATTEMPTS)
        with_past.append(_drained(stand, branch_ids))
    subject = "worker, one branch failing in each batch"
    row = Row(subject, "since the first event", "events/s", without)
    what = f"{FAILING_ATTEMPTS // 2:,} failures of {FAILING_ATTEMPTS:,} attempts before"
    return [row, Row(subject, what, "events/s", with_past, row, [Target("≥", KEEPS)])]


def rows_of_backlog(backlog: Backlog) -> list[Row]:
    subject = f"worker, draining a backlog of {backlog.events:,}"
    fastest = Row(subject, "the fastest tenth", "events/s", [max(backlog.rates)])
    slowest = Row(
        subject, "the slowest tenth", "events/s", [min(backlog.rates)], fastest,
        [Target("≥", KEEPS)],
    )  # fmt: skip
    memory = Row(
        subject, "peak memory", "MB", [backlog.peak_megabytes],
        targets=[Target("≤", LIMIT_MEGABYTES, of_ratio=False)],
    )  # fmt: skip
    return [fastest, slowest, memory]
