"""What safety costs: the ledger, messages that the database refuses, replaying, and the audit."""

import threading
import time
from collections.abc import Callable
from contextlib import closing

from sqlalchemy import Engine, text

from benchmarks.drain import EVENTS, ROUNDS, WORKER, backlog, drain_by_worker
from benchmarks.load import publications
from benchmarks.report import Row, Target
from benchmarks.stand import Stand
from mirrorfeed.consumer.apply.batch import Applier
from mirrorfeed.consumer.apply.ledger import audit
from mirrorfeed.consumer.apply.message import read_message
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.dead_letters.plan import plan
from mirrorfeed.consumer.dead_letters.replay import Replay
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.contract.events import ScriptRun
from sandbox import SandboxError

UNLEDGERED = ("python", "-m", "benchmarks.unledgered_worker", "run", "--drain")
LARGE_BATCHES = ("--batch-size", "2000")
LETTERS = 10_000
SOURCES = 100
EVENTS_OF_A_SOURCE = 500_000
HOLES_OF_A_SOURCE = 100

# One branch in a hundred: of a batch of 2,000 messages, about 20.
REFUSE = """
    CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'not this branch'; END $$;
    CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON mirror_attempt
    FOR EACH ROW WHEN (NEW.branch_id % 100 = 7) EXECUTE FUNCTION refuse()
"""

GENERATE_LEDGER = text("""
    WITH made AS (
        INSERT INTO ledger_source (source)
        SELECT '/pullers/host-' || number || '/' || gen_random_uuid()
        FROM generate_series(1, :sources) AS number RETURNING id
    )
    INSERT INTO ledger_range (source_id, first, last, recorded_at)
    SELECT id, 1 + hole * :step, (hole + 1) * :step - 1, now()
    FROM made, generate_series(0, :holes - 1) AS hole
""")


def measure(stand: Stand) -> list[Row]:
    engine = open_engine(stand.database_url)
    with_ledger: list[float] = []
    without: list[float] = []
    clean: list[float] = []
    refused: list[float] = []
    replayed: list[float] = []
    for _ in range(ROUNDS):
        without.append(_drained(stand, *UNLEDGERED))
        with_ledger.append(_drained(stand, *WORKER))
        clean.append(_drained(stand, *WORKER, *LARGE_BATCHES))
        with closing(stand.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(REFUSE)
            refused.append(_drained(stand, *WORKER, *LARGE_BATCHES, is_refused=_is_refused))
            cursor.execute("DROP TRIGGER refuse ON mirror_attempt")
        replayed.append(_replayed(stand, engine))
    audited = _audited(stand, engine)
    engine.dispose()

    subject = "worker, draining a backlog, 1,000 messages a batch"
    row_without = Row(subject, "without the ledger", "events/s", without)
    row_with = Row(
        subject, "mirror-consumer run --drain", "events/s", with_ledger, row_without,
        [Target("≥", 0.85)],
    )  # fmt: skip
    subject = "worker, 2,000 messages a batch"
    row_clean = Row(subject, "all of them good", "events/s", clean)
    row_refused = Row(
        subject, "1 in 100 refused by the database", "events/s", refused, row_clean,
        [Target("≥", 0.5)],
    )  # fmt: skip
    row_replay = Row(
        "replay", f"applying {LETTERS:,} letters", "letters/s", replayed, row_with,
        [Target("≥", 0.5)],
    )  # fmt: skip
    row_audit = Row(
        "audit", "50 million events from 100 sources", "s", audited,
        targets=[Target("≤", 1, of_ratio=False)],
    )  # fmt: skip
    return [row_without, row_with, row_clean, row_refused, row_replay, row_audit]


def _is_refused(branch_id: int) -> bool:
    return branch_id % 100 == 7


def _drained(
    stand: Stand, *command: str, is_refused: Callable[[int], bool] = lambda branch_id: False
) -> float:
    """Events a second."""
    batch = backlog(stand, EVENTS)
    return len(batch) / drain_by_worker(stand, batch, command, is_refused)


def _replayed(stand: Stand, engine: Engine) -> float:
    """Letters a second, from the selection to the last commit. They were of unknown branches."""
    stand.clear()
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM branch"))
    messages = [
        read_message(publication.body)
        for publication in publications(2 * LETTERS)
        if not isinstance(publication.envelope.event, ScriptRun)
    ][:LETTERS]
    applier = Applier(engine)
    for begin in range(0, LETTERS, 1000):
        applier.apply(messages[begin : begin + 1000])
    stand.register_branches()
    began_at = time.perf_counter()
    with engine.connect() as connection:
        planned = plan(connection, Selection())
    for step in Replay(engine, planned).run(threading.Event()):
        if step.skipped or any(outcome.outcome != "applied" for outcome in step.outcomes):
            raise SandboxError("a letter was not applied")
    return len(planned) / (time.perf_counter() - began_at)


def _audited(stand: Stand, engine: Engine) -> list[float]:
    """Seconds of the whole command, each time, with some thousand arrivals yet to be folded."""
    stand.clear()
    step = EVENTS_OF_A_SOURCE // HOLES_OF_A_SOURCE
    with engine.begin() as connection:
        connection.execute(
            GENERATE_LEDGER, {"sources": SOURCES, "holes": HOLES_OF_A_SOURCE, "step": step}
        )
        connection.execute(text("""
            INSERT INTO ledger_arrival (source, sequences)
            SELECT source, array_agg(number) FROM ledger_source, generate_series(500001, 500050)
            AS number GROUP BY source"""))  # fmt: skip
    with engine.connect() as connection:
        missing = sum(len(each.missing) for each in audit(connection))
    if missing != SOURCES * HOLES_OF_A_SOURCE:
        raise SandboxError(f"the audit of a generated ledger found {missing} holes")
    seconds = []
    for _ in range(ROUNDS):
        began_at = time.perf_counter()
        code = stand.exit_code("mirror-consumer", "audit", "--json")
        seconds.append(time.perf_counter() - began_at)
        if code != 1:
            raise SandboxError(f"the audit ended with {code}")
    return seconds
