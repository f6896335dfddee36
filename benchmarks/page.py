"""How long people wait for the page when much is in the tables, and what they cost the worker."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from benchmarks.growth import STRIDE, live, settle
from benchmarks.harness import (
    Row,
    Rows,
    Values,
    at_least,
    at_most,
    in_turns,
    measure,
    milliseconds,
)
from benchmarks.load import publications, publish
from benchmarks.stand import Process, Stand, result_of, wait_for_log
from benchmarks.worker import drain_rate
from mirrorfeed.consumer.apply.projection import PROJECT_BRANCHES
from mirrorfeed.consumer.database import open_engine

BRANCHES = 100_000
ATTEMPTS = 5_000_000
LETTERS = 100_000
VIEWERS = 10
PATHS = (
    "/",
    "/branches",
    "/branches?need=1",
    "/branches?state=failing",
    "/branches?name=77",
    "/branches?host=host-7",
    "/branches?sort=name",
    "/branches?sort=share",
    "/branches?sort=changed&state=failing",
    "/branches/17",
    "/letters",
    "/letters?by=host",
    "/audit",
    "/scripts",
    "/workers",
    "/operations",
)
LOOKS_SECONDS = 100.0
HURRIED_SECONDS = 1.0
"""Between two looks of one viewer: five times as often as a browser asks."""
USUAL_SECONDS = 5.0
P95_MS = 100.0
ROUNDS = 3
EVENTS = 120_000
KEEPS = 0.97
"""The share of its rate that the worker must keep."""

ADD_LETTERS = """
    INSERT INTO dead_letter (reason, detail, body, source, branch_id, first_seen_at)
    SELECT
        'unknown-branch', 'no branch ' || branch_id || ' is registered',
        convert_to(repeat(md5(number::text), 12), 'UTF8'), uri, branch_id,
        now() - number * interval '1 s'
    FROM generate_series(1, %(letters)s) AS number
    CROSS JOIN LATERAL (SELECT %(branches)s + number %% 1000 AS branch_id) AS named
    JOIN (SELECT uri, row_number() OVER () AS place FROM source) AS known
        ON place = number %% (SELECT count(*) FROM source) + 1
"""
ADD_RUNS = """
    INSERT INTO script_activity (name, hostname, date_started, date_completed)
    SELECT 'branch-puller', hostname, began_at, began_at + interval '4 min'
    FROM source, generate_series(now() - interval '1 day', now(), interval '5 min') AS began_at
"""
ADD_RANGES = """
    INSERT INTO ledger_range (source_id, first, last, recorded_at)
    SELECT id, gap * 1000 + 1, gap * 1000 + 998, now() FROM source, generate_series(0, 99) AS gap
"""
# Some attempts are under way, or were and have not ended.
UNEND = """
    UPDATE mirror_attempt SET finished_at = NULL, outcome = NULL, revision_id = NULL,
        failure_reason = NULL
    FROM branch
    WHERE branch_id = branch.id AND mod(branch.id, 500) = 7 AND started_at = last_mirror_attempt
"""


@measure("page", rounds=1, takes_minutes=True)
def page(stand: Stand) -> Rows:
    """Ten people look at every page in turn, from a cold start; then the worker with and without
    them."""
    _fill(stand)

    def looks() -> Values:
        with _looked_at(stand, HURRIED_SECONDS) as viewers:
            time.sleep(LOOKS_SECONDS)
            viewers.terminate()
            seconds = result_of(viewers)
        found: dict[str, float | list[float]] = {}
        for path, taken in seconds.items():
            found[path] = [1000 * each for each in taken]
            found[f"{path}, p95"] = milliseconds(taken, 95)
        return found

    def rates() -> Values:
        runs = {alone.what: lambda: rate(is_looked_at=False)}
        runs[watched.what] = lambda: rate(is_looked_at=True)
        return in_turns(ROUNDS, runs)

    def rate(is_looked_at: bool) -> float:
        batch = publications(EVENTS, [number * STRIDE % BRANCHES + 1 for number in range(BRANCHES)])
        if not is_looked_at:
            publish(stand.amqp_url, batch)
            return drain_rate(stand, batch)
        # Each has seen every page before the backlog comes, so that the worker meets them as they
        # usually are.
        with _looked_at(stand, USUAL_SECONDS):
            time.sleep(len(PATHS) * USUAL_SECONDS)
            publish(stand.amqp_url, batch)
            return drain_rate(stand, batch)

    waits = [
        row
        for path in PATHS
        for row in (
            Row(path, "ms", looks),
            Row(f"{path}, p95", "ms", looks, at_most(P95_MS)),
        )
    ]
    alone = Row("nobody looks", "events/s", rates)
    watched = Row(f"{VIEWERS} viewers", "events/s", rates, at_least(KEEPS, alone))
    yield {
        f"page, {VIEWERS} viewers, {BRANCHES:,} branches, {ATTEMPTS:,} attempts": waits,
        "worker, draining a backlog beside the page": [alone, watched],
    }


def _fill(stand: Stand) -> None:
    live(stand, BRANCHES, ATTEMPTS, ago=timedelta(0))
    stand.ask(UNEND)
    engine = open_engine(stand.database_url)
    with engine.begin() as connection:
        ids = list(range(7, BRANCHES + 1, 500))
        connection.execute(PROJECT_BRANCHES, {"branch_ids": ids})
    engine.dispose()
    stand.ask(ADD_LETTERS, {"letters": LETTERS, "branches": BRANCHES})
    stand.ask(ADD_RUNS)
    stand.ask(ADD_RANGES)
    settle(stand)


@contextmanager
def _looked_at(stand: Stand, pause_seconds: float) -> Iterator[Process]:
    """The page, just started, and those who look at it."""
    with stand.running("mirror-consumer", "web", "--port", "0") as web:
        address = wait_for_log(web, r"the page is at http://(.*?)/")[1]
        with stand.calling("viewers", address, VIEWERS, pause_seconds, *PATHS) as viewers:
            yield viewers
