"""What becomes of dead letters that are applied again, on a real PostgreSQL."""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import Engine, text

from mirrorfeed.consumer.apply import burial
from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.message import Rejection, read_message, reject
from mirrorfeed.consumer.apply.projection import Attempt, attempt_of
from mirrorfeed.consumer.dead_letters import store as letters
from mirrorfeed.consumer.dead_letters import transfer
from mirrorfeed.consumer.dead_letters.edit import edit
from mirrorfeed.consumer.dead_letters.plan import Planned, plan
from mirrorfeed.consumer.dead_letters.replay import Outcome, Trial, try_letters
from mirrorfeed.consumer.dead_letters.store import LetterState, Selection
from mirrorfeed.consumer.errors import BadLetterFile, ConditionNotMet, LetterError, StillDead
from mirrorfeed.consumer.operations import perform
from mirrorfeed.consumer.operations.perform import Step, apply_planned
from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope, MirrorFailed, ScriptRun, SpoolHeartbeat
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.wire import MAX_BODY_BYTES
from tests.builders import at, bodies, completed, envelope, failed, messages, script_run, started
from tests.letters import bury
from tests.reference import BranchState, fold
from tests.servers import fresh_branch_ids, refuse_in_database, register_branches, rows, state_of

NUMBERS = (
    "SELECT DISTINCT source, number FROM ledger_arrival, unnest(sequences) AS number ORDER BY 1, 2"
)
STATES = "SELECT branch_id, state FROM dead_letter ORDER BY id"


def planned_letters(engine: Engine, selection: Selection | None = None) -> list[Planned]:
    with engine.connect() as connection:
        return plan(connection, selection or Selection())


def apply(engine: Engine, selection: Selection | None = None) -> list[Step]:
    planned = planned_letters(engine, selection)
    return list(apply_planned(engine, planned, "tester", threading.Event()))


def discarded(*ids: int) -> Selection:
    return Selection(ids=ids, state=LetterState.DISCARDED)


def outcomes(progress: Sequence[Step | Trial]) -> list[Outcome]:
    return [outcome for step in progress for outcome in step.outcomes]


def told(progress: Sequence[Step | Trial]) -> list[str]:
    return [outcome.outcome for outcome in outcomes(progress)]


def test_a_letter_is_applied_once_its_cause_is_gone(engine: Engine) -> None:
    """Until then it stays dead, with its reason."""
    bury(engine, completed(404, 0, "rev-1"))
    (dead,) = outcomes(apply(engine))
    assert (dead.outcome, dead.reason) == ("dead", Reason.UNKNOWN_BRANCH)
    assert rows(engine, STATES) == [(404, "dead")]
    register_branches(engine, 404)
    assert told(apply(engine)) == ["applied"]
    assert rows(engine, STATES) == [(404, "replayed")]
    assert state_of(engine, 404) == BranchState(at(0), at(0), "rev-1")
    assert apply(engine) == []


def test_what_the_database_knows_already_is_unchanged(engine: Engine) -> None:
    """Two letters that say the same count as one change."""
    bury(engine, failed(1, 0, "why"), failed(1, 0, "why"))
    with engine.begin() as connection:
        connection.execute(
            text("""
            CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'no runs'; END $$;
            CREATE TRIGGER no_runs BEFORE INSERT ON script_activity EXECUTE FUNCTION refuse()
        """)
        )
    Applier(engine).apply(messages(script_run("gc", 0, 1)))
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER no_runs ON script_activity"))
    register_branches(engine, 1)
    assert told(apply(engine)) == ["applied", "unchanged", "applied"]
    with engine.begin() as connection:
        connection.execute(text("UPDATE dead_letter SET state = 'dead'"))
    assert told(apply(engine)) == ["unchanged", "unchanged", "unchanged"]


@st.composite
def tellings(draw: st.DrawFn) -> Callable[[int], Envelope]:
    """One of few events about one of two attempts or runs, of a branch or script to be named."""
    start, end = draw(st.integers(0, 1)), draw(st.integers(2, 3))
    reason = draw(st.sampled_from(["a", "b", "poison"]))
    revision = draw(st.sampled_from([None, "a"]))
    makers: list[Callable[[int], Envelope]] = [
        lambda branch: started(branch, start),
        lambda branch: completed(branch, start, revision, end),
        lambda branch: failed(branch, start, reason, end),
        lambda branch: script_run(f"s{branch}", start, end),
    ]
    return draw(st.sampled_from(makers))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    known=st.lists(tellings(), max_size=4),
    told_later=st.lists(tellings(), max_size=8),
    chunk=st.integers(1, 8),
)
def test_a_letter_is_applied_if_it_says_more_than_what_was_said_before(
    engine: Engine,
    known: list[Callable[[int], Envelope]],
    told_later: list[Callable[[int], Envelope]],
    chunk: int,
) -> None:
    """By the database or by a letter before it, in the same transaction or not; what the database
    refuses says nothing. As the plain rule has it, event by event."""
    branch_id = next(fresh_branch_ids)
    register_branches(engine, branch_id)
    refuse_in_database(engine, "failure_reason = 'poison'")
    before = [envelope for tell in known if not is_poison(envelope := tell(branch_id))]
    Applier(engine).apply(messages(*before))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM dead_letter"))
        for message in messages(*(tell(branch_id) for tell in told_later)):
            assert isinstance(message.content, Envelope)
            burial.bury(connection, [(message, reject(message.content, Reason.INVALID, "gone"))])
        bodies = dict(map(tuple, connection.execute(text("SELECT id, body FROM dead_letter"))))
    said: dict[object, Attempt | None] = {}
    for envelope in before:
        says_more(said, envelope)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(perform, "PIECE", chunk)
        found = outcomes(apply(engine))
    assert len(found) == len(bodies)
    for outcome in found:
        envelope = wire.decode(bytes(bodies[outcome.id]))
        if outcome.outcome == "dead":
            assert is_poison(envelope)
        else:
            expected = "applied" if says_more(said, envelope) else "unchanged"
            assert outcome.outcome == expected


def is_poison(envelope: Envelope) -> bool:
    return getattr(envelope.event, "reason", None) == "poison"


def says_more(said: dict[object, Attempt | None], envelope: Envelope) -> bool:
    """The plain rule; learns what the event says."""
    event = envelope.event
    if isinstance(event, ScriptRun):
        is_news = event not in said
        said[event] = None
        return is_news
    assert not isinstance(event, SpoolHeartbeat)
    attempt = attempt_of(envelope.time, event)
    key = event.branch_id, event.started_at
    is_news = attempt.supersedes(said.get(key))
    if is_news:
        said[key] = attempt
    return is_news


def test_letters_are_applied_in_the_order_of_what_they_tell(engine: Engine) -> None:
    """They are sorted by partition key and start, not by when they died."""
    history = [failed(branch, second, "x") for second in range(5) for branch in (2, 10)]
    history.append(script_run("gc", 3, 4))
    shuffled = Random(1).sample(history, len(history))
    bury(engine, *[each for each in shuffled if each.partition_key.startswith("branch")])
    Applier(engine).apply([read_message(b"{")])
    with engine.connect() as connection:
        planned = plan(connection, Selection())
    assert [(each.partition_key, each.started_at) for each in planned[1:]] == sorted(
        (each.partition_key, each.time - (at(1) - at(0))) for each in history[:-1]
    )
    assert planned[0].partition_key == ""


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_late_letter_takes_its_place_in_the_past(engine: Engine, data: st.DataObject) -> None:
    """Whatever part of a history died, the rows end up as those of the whole."""
    branch_id = next(fresh_branch_ids)
    history = [
        end
        for second in range(8)
        for end in (
            started(branch_id, second),
            completed(branch_id, second, f"r{second}")
            if data.draw(st.booleans())
            else failed(branch_id, second, f"w{second}"),
        )
    ]
    dead = data.draw(st.sets(st.integers(0, len(history) - 1)))
    bury(engine, *[history[index] for index in dead])
    register_branches(engine, branch_id)
    Applier(engine).apply(messages(*(each for n, each in enumerate(history) if n not in dead)))
    assert len(outcomes(apply(engine))) == len(dead)
    assert state_of(engine, branch_id) == fold(history)[branch_id]


def test_a_dry_run_says_what_would_happen_and_changes_nothing(engine: Engine) -> None:
    """It shows the combined change of each branch."""
    register_branches(engine, 2)
    Applier(engine).apply(messages(failed(2, 0, "old")))
    bury(engine, completed(1, 0, "rev-1"), failed(1, 5, "why"), failed(3, 0, "unknown"))
    register_branches(engine, 1)
    before = state_of(engine, 1)
    (step,) = try_letters(engine, planned_letters(engine))
    assert told([step]) == ["applied", "applied", "dead"]
    (change,) = step.differences
    assert change.branch_id == 1
    assert change.before["last_mirrored"] is None
    assert change.after["last_mirrored"] == at(0)
    assert change.after["mirror_failures"] == 1
    assert state_of(engine, 1) == before
    assert {row.state for row in rows(engine, STATES)} == {"dead"}
    assert told(apply(engine)) == ["applied", "applied", "dead"]


def test_a_dry_run_cuts_no_branch_in_two(engine: Engine) -> None:
    """It shows a branch's whole change, however many letters there are."""
    bury(engine, *(failed(branch, second, "x") for branch in (1, 2, 3) for second in range(4)))
    register_branches(engine, 1, 2, 3)
    steps = list(try_letters(engine, planned_letters(engine), at_once=3))
    assert [
        (change.branch_id, change.before["mirror_failures"], change.after["mirror_failures"])
        for step in steps
        for change in step.differences
    ] == [(1, 0, 4), (2, 0, 4), (3, 0, 4)]


def test_what_the_database_refuses_takes_no_other_letter_along(engine: Engine) -> None:
    """It stays dead under its new reason, and the rest is applied."""
    bury(engine, *(failed(1, second, "poison" if second == 3 else "fine") for second in range(9)))
    register_branches(engine, 1)
    refuse_in_database(engine, "failure_reason = 'poison'")
    assert told(apply(engine)) == ["applied"] * 3 + ["dead"] + ["applied"] * 5
    assert rows(engine, "SELECT reason, detail FROM dead_letter WHERE state = 'dead'") == [
        ("rejected-by-database", "no poison here")
    ]


def test_two_operators_at_once_share_the_letters(engine: Engine) -> None:
    """Each letter is applied by one of them."""
    bury(engine, *(failed(branch, 0, "x") for branch in range(1, 301)))
    register_branches(engine, *range(1, 301))
    with engine.connect() as connection:
        planned = plan(connection, Selection())

    def run(_: int) -> list[Step]:
        return list(apply_planned(engine, planned, "tester", threading.Event(), rate=4000))

    with ThreadPoolExecutor(2) as threads:
        both = [step for steps in threads.map(run, range(2)) for step in steps]
    assert sorted(each.id for each in outcomes(both)) == sorted(each.id for each in planned)
    assert told(both) == ["applied"] * 300
    assert sum(step.skipped for step in both) == 300


def test_letters_in_somebodys_hands_are_skipped_not_waited_for(engine: Engine) -> None:
    """Another replay that has locked them will apply them."""
    bury(engine, failed(1, 0, "x"), failed(1, 1, "x"))
    register_branches(engine, 1)
    with engine.begin() as other:
        other.execute(text("SELECT id FROM dead_letter ORDER BY id LIMIT 1 FOR UPDATE"))
        (step,) = apply(engine)
    assert (told([step]), step.skipped) == (["applied"], 1)


def test_what_arrives_meanwhile_waits_for_the_next_call(engine: Engine) -> None:
    """A replay applies exactly what was selected at its start."""
    bury(engine, failed(1, 0, "x"))
    with engine.connect() as connection:
        planned = plan(connection, Selection())
    bury(engine, failed(1, 1, "x"))
    register_branches(engine, 1)
    (step,) = apply_planned(engine, planned, "tester", threading.Event())
    assert told([step]) == ["applied"]
    assert state_of(engine, 1).mirror_failures == 1


def test_a_replay_that_is_stopped_leaves_a_clean_state(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops between transactions: the rest is as dead as before."""
    monkeypatch.setattr(perform, "PIECE", 4)
    bury(engine, *(failed(1, second, "x") for second in range(10)))
    register_branches(engine, 1)
    with engine.connect() as connection:
        planned = plan(connection, Selection())
    stopping = threading.Event()
    for _ in apply_planned(engine, planned, "tester", stopping):
        stopping.set()
    assert state_of(engine, 1).mirror_failures == 4
    assert rows(engine, "SELECT state, count(*) FROM dead_letter GROUP BY 1 ORDER BY 1") == [
        ("dead", 6),
        ("replayed", 4),
    ]


def test_letters_beside_a_worker_on_the_same_branches(engine: Engine) -> None:
    """Neither side deadlocks for good, and the rows are those of all events."""
    branch_ids = range(1, 21)
    early = [failed(branch, second, "x") for second in range(20) for branch in branch_ids]
    late = [completed(branch, 50, f"r{branch}") for branch in branch_ids]
    bury(engine, *early)
    register_branches(engine, *branch_ids)
    applier = Applier(engine)
    with ThreadPoolExecutor(3) as threads:
        replaying = threads.submit(apply, engine)
        applying = [
            threads.submit(applier.apply, messages(*late, *early[begin : begin + 25][::-1]))
            for begin in range(0, len(early), 25)
        ]
    assert len(outcomes(replaying.result())) <= len(early)
    for each in applying:
        each.result()
    for branch_id, state in fold(early + late).items():
        assert state_of(engine, branch_id) == state
    assert rows(engine, "SELECT count(*) FROM dead_letter WHERE state = 'dead'") == [(0,)]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [1, 2, 3]),
        (Selection(limit=2), [1, 2]),
        (Selection(ids=(2, 99)), [2]),
        (Selection(reason=Reason.MALFORMED), [3]),
        (Selection(type="mirror.failed"), [2]),
        (Selection(branch_id=1, limit=5), [1]),
        (Selection(branch_id=1, type="mirror.failed"), []),
        (Selection(since=at(1e9)), []),
        (Selection(state=LetterState.DISCARDED), [4]),
    ],
)
def test_letters_are_selected_by_what_is_known_of_them(
    engine: Engine, selection: Selection, expected: list[int]
) -> None:
    """Every criterion narrows, and the limit takes the oldest."""
    for message in (*messages(started(1, 0), failed(2, 0, "x")), read_message(b"{"),
                    *messages(started(3, 0))):  # fmt: skip
        Applier(engine).apply([message])
    with engine.begin() as connection:
        letters.discard(connection, Selection(ids=(4,)), "no matter")
        assert [row.id for row in letters.find(connection, selection)] == expected


def test_letters_are_counted_by_reason_and_error(engine: Engine) -> None:
    """Errors that differ only in numbers are counted together."""
    bury(engine, started(404, 0), started(405, 0), started(405, 1))
    Applier(engine).apply([read_message(b"{")])
    with engine.connect() as connection:
        groups = letters.group(connection, Selection())
    assert [(group.reason, group.letters) for group in groups] == [
        ("unknown-branch", 3),
        ("malformed", 1),
    ]
    assert groups[0].error.startswith("branch # is not registered")


def test_an_edit_that_mends_a_letter_keeps_the_original(engine: Engine) -> None:
    """It is applied as edited, and a duplicate of the original does not revive it."""
    register_branches(engine, 1)
    (original,) = bodies([failed(404, 0, "why")])
    (mended,) = bodies([failed(1, 0, "why")])
    Applier(engine).apply([read_message(original)])
    edit(engine, 1, mended)
    assert told(apply(engine)) == ["applied"]
    assert state_of(engine, 1).mirror_failures == 1
    Applier(engine).apply([read_message(original)])
    (letter,) = rows(engine, "SELECT * FROM dead_letter")
    assert (bytes(letter.body), bytes(letter.original_body)) == (mended, original)
    assert (letter.state, letter.attempts, letter.branch_id) == ("replayed", 2, 1)


def test_an_edit_does_not_change_what_has_arrived(engine: Engine) -> None:
    """With another source or number in the body, nothing of that source counts as missing."""
    register_branches(engine, 1)
    (original,) = bodies([envelope(MirrorFailed(404, at(0), "why"), at(1), sequence=1)])
    other = envelope(MirrorFailed(1, at(0), "why"), at(1), sequence=4)
    Applier(engine).apply([read_message(original)])
    edit(engine, 1, wire.encode(replace(other, source="/pullers/elsewhere/test")))
    assert told(apply(engine)) == ["applied"]
    assert rows(engine, NUMBERS) == [("/pullers/vostok/test", 1)]


def test_an_edit_can_add_the_number_that_could_not_be_read(engine: Engine) -> None:
    """It counts as arrived once the letter is applied."""
    register_branches(engine, 1)
    mended = wire.encode(envelope(MirrorFailed(1, at(0), "why"), at(1), sequence=1))
    Applier(engine).apply([read_message(mended[:-1])])
    assert rows(engine, NUMBERS) == []
    edit(engine, 1, mended)
    assert told(apply(engine)) == ["applied"]
    assert rows(engine, NUMBERS) == [("/pullers/vostok/test", 1)]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "malformed"),
        (bodies([started(405, 0)])[0], "branch 405 is not registered"),
        (bodies([failed(1, 0, "poison")])[0], "no poison here"),
        (bodies([started(1, 1e9)])[0], "from-the-future"),
    ],
)
def test_an_edit_that_would_still_be_dead_is_refused(engine: Engine, body: bytes, why: str) -> None:
    """The error says why, and the letter stays as it was."""
    register_branches(engine, 1)
    refuse_in_database(engine, "failure_reason = 'poison'")
    bury(engine, started(404, 0))
    before = rows(engine, "SELECT * FROM dead_letter")
    with pytest.raises(StillDead, match=why):
        edit(engine, 1, body)
    assert rows(engine, "SELECT * FROM dead_letter") == before
    assert rows(engine, "SELECT count(*) FROM mirror_attempt") == [(0,)]


def test_only_what_is_dead_can_be_edited_or_discarded(engine: Engine) -> None:
    """Either all the named letters change or none, and the error names each that cannot."""
    bury(engine, started(404, 0))
    bury(engine, started(405, 0))
    with engine.begin() as connection:
        letters.discard(connection, Selection(ids=(1,)), "no matter")
    for forbidden in (
        lambda connection: letters.discard(connection, Selection(ids=(2, 1, 9)), "x"),
        lambda connection: letters.restore(connection, discarded(1, 2, 9)),
        lambda connection: letters.get(connection, 9),
    ):
        with pytest.raises(LetterError, match="9"), engine.begin() as connection:
            forbidden(connection)
    with pytest.raises(ConditionNotMet, match="letter 1 is discarded"):
        edit(engine, 1, bodies([started(404, 0)])[0] + b" ")
    assert rows(engine, STATES) == [(404, "discarded"), (405, "dead")]


def test_a_discarded_letter_can_be_restored(engine: Engine) -> None:
    """Its note stays, and meanwhile neither a duplicate nor an apply revives it."""
    unknown = started(404, 0)
    bury(engine, unknown)
    with engine.begin() as connection:
        letters.discard(connection, Selection(ids=(1,)), "no matter")
    bury(engine, unknown)
    assert apply(engine) == []
    with engine.begin() as connection:
        letters.restore(connection, discarded(1))
    assert rows(engine, "SELECT state, note, resolved_at FROM dead_letter WHERE id = 1") == [
        ("dead", "no matter", None)
    ]


def test_exported_letters_can_be_imported_elsewhere(engine: Engine) -> None:
    """They arrive byte for byte, once, and edited ones keep their originals."""
    register_branches(engine, 1)
    headers = {"origin": "vostok"}
    for body in (b"\xff\0", bodies([started(404, 0)])[0]):
        Applier(engine).apply([read_message(body, headers)])
    edit(engine, 2, bodies([started(1, 0)])[0])
    without_id = """SELECT reason, detail, body, original_body, headers, source, event_id, type,
        branch_id, first_seen_at, attempts, state, note FROM dead_letter ORDER BY reason"""
    before = rows(engine, without_id)
    with engine.begin() as connection:
        letters = transfer.exported(connection, Selection())
        lines = [json.dumps(letter).encode() for letter in letters]
        assert transfer.import_lines(connection, lines) == (0, 2)
        connection.execute(text("DELETE FROM dead_letter"))
        assert transfer.import_lines(connection, [*lines, b"\n", lines[0]]) == (2, 1)
    assert rows(engine, without_id) == before


def test_a_letter_that_is_edited_after_it_was_looked_at_is_skipped(engine: Engine) -> None:
    """What is applied is what was looked at."""
    register_branches(engine, 1)
    bury(engine, failed(404, 0, "why"))
    with engine.connect() as connection:
        planned = plan(connection, Selection())
    edit(engine, 1, bodies([failed(1, 0, "why")])[0])
    (step,) = apply_planned(engine, planned, "tester", threading.Event())
    assert (told([step]), step.skipped) == ([], 1)


@pytest.mark.parametrize("body", [b"x" * (2 * MAX_BODY_BYTES), b"", b"{"])
def test_what_is_no_event_stays_dead_for_its_reason(engine: Engine, body: bytes) -> None:
    """Even a very large one is reported rather than skipped."""
    message = read_message(body)
    Applier(engine).apply([message])
    (outcome,) = outcomes(apply(engine))
    assert isinstance(message.content, Rejection)
    assert (outcome.outcome, outcome.reason) == ("dead", message.content.reason)


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"reason":"x"}', b'{"reason":"x","detail":"",'
                                  b'"body":"not base64!"}',
                                  b'{"reason":"luck","detail":"","body":""}',
                                  b'{"reason":"invalid","detail":"\\u0000","body":""}',
                                  b'{"reason":"invalid","detail":"","body":"","attempts":2e9}',
                                  b'{"reason":"invalid","detail":"","body":"",'
                                  b'"first_seen_at":"9999-12-31T23:59:59-12:00"}',
                                  b"[" * 100_000])  # fmt: skip
def test_a_bad_line_imports_nothing(engine: Engine, line: bytes) -> None:
    """The error names its line number."""
    good = b'{"reason":"malformed","detail":"x","body":"ew=="}'
    with pytest.raises(BadLetterFile, match="line 2"), engine.begin() as connection:
        transfer.import_lines(connection, [good, line])
    assert rows(engine, "SELECT * FROM dead_letter") == []
