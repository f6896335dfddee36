"""Whether a worker is as fast after years as on its first day; writes docs/benchmarks/growth.md.

Takes long: `make bench-growth`, or `python -m benchmarks growth` if matplotlib is installed.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import islice

from benchmarks.harness import (
    HEADINGS,
    Row,
    Rows,
    Values,
    at_least,
    at_most,
    in_turns,
    lines_of,
    measure,
)
from benchmarks.load import BRANCHES, REASON, STEP, history, publication, publications, publish
from benchmarks.pages import check_can_draw, new_figure, save, write_measured
from benchmarks.stand import Stand
from benchmarks.worker import DRAIN, Attempts, drain_rate, have_ended, last_outcomes
from mirrorfeed.consumer.apply.projection import PROJECT_BRANCHES
from mirrorfeed.consumer.database import open_engine

BRANCH_COUNTS = (1_000, 100_000, 1_000_000)
ATTEMPT_COUNTS = (0, 1_000_000, 20_000_000)
EVENTS = 120_000
"""All in one round: a second round's events would be older than those of the first."""
AGO = timedelta(days=1)
"""When the last attempt began that is in the tables."""
HOSTS = 50
STRIDE = 7919
"""The step from one branch to the next: a prime, so that all get their turn, far apart."""
KEEPS = 0.7
"""The share of the best rate that must remain, whatever has grown."""
FAILING = BRANCHES
"""The last branch, one of those that always fail."""
FAILING_ATTEMPTS = 100_000
FAILING_TURN = 100
"""One attempt in this many belongs to it, so that every batch has some."""
FAILING_ROUNDS = 2
OTHER_ATTEMPTS = 100_000
"""Attempts of all other branches, so that the planner does not see this branch only."""
BACKLOG_EVENTS = 2_000_000
PUBLISHED_AT_ONCE = 20_000
"""Events in this process's memory at a time."""
PROJECTED_AT_ONCE = 50_000

# Adding each row to an index of that size, and checking it against `branch`, would take many times
# as long.
WITHOUT_CONSTRAINTS = """
    ALTER TABLE mirror_attempt
        DROP CONSTRAINT mirror_attempt_pkey, DROP CONSTRAINT mirror_attempt_branch_id_fkey
"""
WITH_CONSTRAINTS = """
    SET LOCAL maintenance_work_mem = '1GB';
    ALTER TABLE mirror_attempt
        ADD PRIMARY KEY (branch_id, started_at),
        ADD FOREIGN KEY (branch_id) REFERENCES branch ON DELETE CASCADE
"""
ADD_SOURCES = """
    WITH added AS (
        INSERT INTO source (uri)
        SELECT '/pullers/host-' || number || '/' || gen_random_uuid()
        FROM generate_series(1, %(hosts)s) AS number RETURNING id
    )
    SELECT min(id) FROM added
"""
# Rows are in the order of time, so that the rows of one branch are far apart.
ADD_ATTEMPTS = """
    INSERT INTO mirror_attempt
        (branch_id, started_at, finished_at, outcome, revision_id, failure_reason, source_id)
    SELECT
        branch_id, started_at, started_at + interval '2 s',
        CASE WHEN has_failed THEN 'failed' ELSE 'completed' END,
        CASE WHEN NOT has_failed THEN left(md5(number::text) || md5('x'), 40) END,
        CASE WHEN has_failed THEN %(reason)s END, %(first_source)s + branch_id %% {hosts}
    FROM generate_series(1, %(attempts)s) AS number
    CROSS JOIN LATERAL (SELECT
        {branch_id} AS branch_id,
        now() - %(ago)s - %(step)s * (%(attempts)s - number) AS started_at
    ) AS attempt
    CROSS JOIN LATERAL (SELECT {has_failed} AS has_failed) AS outcome
"""
# As in `load.history`: all branches in turn, one attempt in twenty failed, and one branch in fifty
# always fails.
OF_ALL = ADD_ATTEMPTS.format(
    branch_id="number %% %(branches)s + 1",
    has_failed="branch_id %% 50 = 0 OR abs(hashint8(number)) %% 20 = 0",
    hosts=HOSTS,
)
# The older half completed, and none after that.
OF_FAILING = ADD_ATTEMPTS.format(
    branch_id="%(branch_id)s", has_failed="number > %(attempts)s / 2", hosts=HOSTS
)


@measure("growth", rounds=1, takes_minutes=True)
def growth(stand: Stand) -> Rows:
    check_can_draw()

    def failing() -> Values:
        """The total rate while one branch fails, with and without a long history of failures."""
        runs = {new.what: lambda: _failing_rate(stand, 0)}
        runs[old.what] = lambda: _failing_rate(stand, FAILING_ATTEMPTS)
        return in_turns(FAILING_ROUNDS, runs)

    def drained() -> Values:
        peak, rates = _drain_backlog(stand)
        fast, slow = max(rates), min(rates)
        return {tenths.what: rates, fastest.what: fast, slowest.what: slow, memory.what: peak}

    sizes = [(branches, attempts) for branches in BRANCH_COUNTS for attempts in ATTEMPT_COUNTS]
    grid = [
        Row(f"{size[0]:,} branches, {size[1]:,} attempts", "events/s", partial(_rate, stand, *size))
        for size in sizes
    ]
    new = Row("since the first event", "events/s", failing)
    what = f"{FAILING_ATTEMPTS // 2:,} failures of {FAILING_ATTEMPTS:,} attempts before"
    old = Row(what, "events/s", failing, at_least(KEEPS, new))
    tenths = Row("tenth by tenth", "events/s", drained)
    fastest = Row("the fastest tenth", "events/s", drained)
    slowest = Row("the slowest tenth", "events/s", drained, at_least(KEEPS, fastest))
    memory = Row("peak memory", "MB", drained, at_most(150))
    yield {
        "worker, draining a backlog, by what is in the tables": grid,
        "worker, one branch failing in each batch": [new, old],
        f"worker, draining a backlog of {BACKLOG_EVENTS:,}": [tenths, fastest, slowest, memory],
    }
    best = max(grid, key=lambda row: row.median)
    for row in grid:
        row.targets = (at_least(KEEPS, best),)
    _draw(dict(zip(sizes, (row.median for row in grid), strict=True)), tenths.values)
    lines = lines_of([*grid, new, old, tenths, fastest, slowest, memory])
    write_measured("benchmarks/growth.md", stand.servers, (), [HEADINGS, *lines])


def _rate(stand: Stand, branches: int, attempts: int) -> float:
    """The worker's rate with this many branches and attempts in the tables."""
    live(stand, branches, attempts)
    return _drain_rate(stand, [number * STRIDE % branches + 1 for number in range(branches)])


def _failing_rate(stand: Stand, failures: int) -> float:
    live(stand, BRANCHES, OTHER_ATTEMPTS)
    if failures:
        step = timedelta(seconds=10)
        values = {"branch_id": FAILING, "attempts": failures, "step": step, "reason": REASON}
        stand.ask(OF_FAILING, {**values, "ago": AGO, "first_source": None})
        settle(stand)
    others = FAILING - 1
    return _drain_rate(
        stand,
        [number % others + 1 if number % FAILING_TURN else FAILING for number in range(EVENTS)],
    )


def _drain_rate(stand: Stand, branch_ids: Sequence[int]) -> float:
    batch = publications(EVENTS, branch_ids)
    publish(stand.amqp_url, batch)
    return drain_rate(stand, batch)


def live(stand: Stand, branches: int, attempts: int, ago: timedelta = AGO) -> None:
    """Empties the tables, then fills them with this many branches and attempts, which HOSTS
    reported."""
    stand.clear(branches)
    if attempts:
        (first_source,) = stand.ask(ADD_SOURCES, {"hosts": HOSTS})
        values = {"attempts": attempts, "branches": branches, "step": STEP, "reason": REASON}
        stand.ask(WITHOUT_CONSTRAINTS)
        stand.ask(OF_ALL, {**values, "ago": ago, "first_source": first_source})
        stand.ask(WITH_CONSTRAINTS)
        engine = open_engine(stand.database_url)
        for first in range(1, branches + 1, PROJECTED_AT_ONCE):
            ids = list(range(first, min(first + PROJECTED_AT_ONCE, branches + 1)))
            with engine.begin() as connection:
                connection.execute(PROJECT_BRANCHES, {"branch_ids": ids})
        engine.dispose()
    settle(stand)


def settle(stand: Stand) -> None:
    """Makes sure that the rows are on disk, and that no vacuum or checkpoint is due for them."""
    stand.ask("VACUUM ANALYZE branch, mirror_attempt")
    stand.ask("CHECKPOINT")


def _drain_backlog(stand: Stand) -> tuple[float, list[float]]:
    """The peak memory, and the events per second of each tenth. A tenth ends when its last
    attempts, one per partition, are committed."""
    stand.clear()
    tenths = _publish_tenths(stand)
    ends = [partial(have_ended, stand, last) for last, _ in tenths]
    seconds, peak = stand.drained(DRAIN, "consuming", ends)
    return peak, [count / each for (_, count), each in zip(tenths, seconds, strict=True)]


def _publish_tenths(stand: Stand) -> list[tuple[Attempts, int]]:
    """The last attempts of each tenth of the backlog, and how many events the tenth has."""
    coming = history(BACKLOG_EVENTS * 100 // 99)  # a script run is one event, an attempt is two
    ends = []
    for _ in range(10):
        count = 0
        tenth = islice(coming, BACKLOG_EVENTS // 10)
        while batch := list(map(publication, islice(tenth, PUBLISHED_AT_ONCE))):
            publish(stand.amqp_url, batch)
            count += len(batch)
            last = last_outcomes(batch)
        ends.append((last, count))
    return ends


def _draw(rates: Mapping[tuple[int, int], float], tenths: Sequence[float]) -> None:
    figure = new_figure(9, 3.5)
    by_size, by_tenth = figure.subplots(1, 2, sharey=True)
    for branches in BRANCH_COUNTS:
        line = [rates[branches, attempts] for attempts in ATTEMPT_COUNTS]
        by_size.plot(range(len(line)), line, marker="o", label=f"{branches:,} branches")
    by_size.set_xticks(range(len(ATTEMPT_COUNTS)), [f"{count:,}" for count in ATTEMPT_COUNTS])
    by_size.set_xlabel("attempts in the table before")
    by_size.set_ylabel("events/s")
    by_size.legend()
    by_tenth.plot(range(1, 11), tenths, marker="o")
    by_tenth.set_xlabel(f"tenth of a backlog of {BACKLOG_EVENTS:,} events")
    by_tenth.set_ylim(bottom=0)
    save(figure, "growth")
