"""What safety costs: the ledger, messages that the database refuses, a replay, and the audit."""

import threading
import time

from sqlalchemy import Engine

from benchmarks.harness import Row, Rows, at_least, at_most, measure
from benchmarks.load import publications
from benchmarks.stand import Stand
from benchmarks.worker import DRAIN, ROUNDS, drain_rate
from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.message import read_message
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.dead_letters.plan import plan
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.consumer.operations.perform import apply_planned
from mirrorfeed.consumer.sources.audit import audit
from mirrorfeed.contract.events import ScriptRun

UNLEDGERED = ("python", "-m", "benchmarks.unledgered_worker", "run", "--drain")
LETTERS = 10_000
SOURCES = 100
EVENTS_OF_A_SOURCE = 500_000
HOLES_OF_A_SOURCE = 100

# One branch in a hundred: about 40 messages in a batch of 4,000.
REFUSE = """
    CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'not this branch'; END $$;
    CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON mirror_attempt
    FOR EACH ROW WHEN (NEW.branch_id % 100 = 7) EXECUTE FUNCTION refuse()
"""
GENERATE_LEDGER = """
    WITH made AS (
        INSERT INTO source (uri)
        SELECT '/pullers/host-' || number || '/' || gen_random_uuid()
        FROM generate_series(1, %(sources)s) AS number RETURNING id
    )
    INSERT INTO ledger_range (source_id, first, last, recorded_at)
    SELECT id, 1 + hole * %(step)s, (hole + 1) * %(step)s - 1, now()
    FROM made, generate_series(0, %(holes)s - 1) AS hole
"""
# Some thousand numbers that are not folded yet.
GENERATE_ARRIVALS = """
    INSERT INTO ledger_arrival (source, sequences)
    SELECT uri, array_agg(number)
    FROM source, generate_series(500001, 500050) AS number GROUP BY uri
"""


@measure("dead-letters", rounds=ROUNDS)
def dead_letters(stand: Stand) -> Rows:
    engine = open_engine(stand.database_url)

    def refused_rate() -> float:
        stand.ask(REFUSE)
        try:
            return drain_rate(stand, is_refused=lambda branch_id: branch_id % 100 == 7)
        finally:
            stand.ask("DROP TRIGGER refuse ON mirror_attempt")

    without = Row("without the ledger", "events/s", lambda: drain_rate(stand, (), UNLEDGERED))
    ours = Row(" ".join(DRAIN), "events/s", lambda: drain_rate(stand), at_least(0.85, without))
    what = "1 in 100 refused by the database"
    refused = Row(what, "events/s", refused_rate, at_least(0.5, ours))
    replayed = Row(
        f"applying {LETTERS:,} letters",
        "letters/s",
        lambda: _replay_rate(stand, engine),
        at_least(0.5, ours),
    )
    what = "50 million events from 100 sources"
    audited = Row(what, "s", lambda: _audit_seconds(stand, engine), at_most(1))
    yield {
        "worker, draining a backlog": [without, ours, refused],
        "replay": [replayed],
        "audit": [audited],
    }
    engine.dispose()


def _replay_rate(stand: Stand, engine: Engine) -> float:
    """Letters per second, from the selection to the last commit. Their branches were unknown."""
    stand.clear(branches=0)
    messages = [
        read_message(publication.body)
        for publication in publications(2 * LETTERS)
        if not isinstance(publication.envelope.event, ScriptRun)
    ][:LETTERS]
    applier = Applier(engine)
    for begin in range(0, LETTERS, 1000):
        applier.apply(messages[begin : begin + 1000])
    stand.register()
    began_at = time.perf_counter()
    with engine.connect() as connection:
        planned = plan(connection, Selection())
    for step in apply_planned(engine, planned, "benchmark", threading.Event()):
        if step.skipped or any(outcome.outcome != "applied" for outcome in step.outcomes):
            raise RuntimeError("a letter was not applied")
    return len(planned) / (time.perf_counter() - began_at)


def _audit_seconds(stand: Stand, engine: Engine) -> float:
    """The seconds of the whole command."""
    stand.clear()
    step = EVENTS_OF_A_SOURCE // HOLES_OF_A_SOURCE
    stand.ask(GENERATE_LEDGER, {"sources": SOURCES, "holes": HOLES_OF_A_SOURCE, "step": step})
    stand.ask(GENERATE_ARRIVALS)
    with engine.connect() as connection:
        missing = sum(each.missing_ranges for each in audit(connection).accounts)
    if missing != SOURCES * HOLES_OF_A_SOURCE:
        raise RuntimeError(f"the audit of a generated ledger found {missing} holes")
    return stand.seconds_of("mirror-consumer", "audit", "--json", expect=1)
