"""Proof that nothing was lost, or of what was."""

import json
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine, text

from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope, MirrorFailed
from tests.builders import at, completed, failed, started
from tests.commands import Shell
from tests.servers import branch, publish, publish_events, register_branches, rows

SOURCE = "/pullers/vostok/test"


def numbered(sequence: int, branch_id: int = 7) -> Envelope:
    event = MirrorFailed(branch_id, at(sequence), "x")
    return Envelope(f"event-{sequence}", SOURCE, at(sequence), event, sequence)


def told(shell: Shell, *arguments: str, expect: int = 0) -> Any:
    return json.loads(shell.run("mirror-consumer", *arguments, "--json", expect=expect).stdout)


def drain(shell: Shell) -> None:
    shell.run("mirror-consumer", "run", "--drain")


def test_the_account_of_a_spool_closes(shell: Shell, engine: Engine) -> None:
    """Once everything is forwarded and drained, spooled, confirmed and received are equal."""
    register_branches(engine, 1)
    for _ in range(3):
        shell.run("mirror-publisher", "started", "1")
        shell.run("mirror-publisher", "failed", "1", "why")
    shell.run("mirror-publisher", "forward", "--drain")
    drain(shell)
    status = json.loads(shell.run("mirror-publisher", "status", "--json").stdout)
    (account,) = told(shell, "audit")["sources"]
    assert account["source"] == status["source"]
    assert status["spooled"] == status["confirmed"] == account["received"] == 6
    assert (account["highest"], account["missing"], account["dead"]) == (6, [], 0)


def test_an_audit_names_what_is_missing(shell: Shell, engine: Engine, topology: str) -> None:
    """Each missing range is listed until it arrives; duplicates count once, buried events as
    arrived."""
    register_branches(engine, 7)
    publish_events(topology, *map(numbered, (1, 2, 5, 6, 6, 9)), numbered(10, branch_id=404))
    drain(shell)
    audit = told(shell, "audit", expect=1)
    (account,) = audit["sources"]
    assert account["missing"] == [[3, 4], [7, 8]]
    assert (account["highest"], account["received"], account["dead"]) == (10, 6, 1)
    assert len(account["missing_seconds"]) == 2
    assert audit["missing_total"] == 4
    seen = shell.run("mirror-consumer", "audit", expect=1)
    assert "4 events missing" in seen.stderr
    assert SOURCE in seen.stdout
    assert told(shell, "audit", "--grace", "3600")["missing_total"] == 0
    publish_events(topology, *map(numbered, (8, 3, 7, 4)))
    drain(shell)
    audit = told(shell, "audit")
    assert (audit["missing_total"], audit["sources"][0]["received"]) == (0, 10)
    assert rows(engine, "SELECT first, last FROM ledger_range") == [(1, 10)]


def test_a_long_list_of_what_is_missing_is_cut(shell: Shell, engine: Engine, topology: str) -> None:
    """Each source shows its first ranges; all are counted."""
    register_branches(engine, 7)
    publish_events(topology, *(numbered(number) for number in range(2, 41, 2)))
    publish_events(topology, replace(numbered(2), source="/pullers/mir/1"))
    drain(shell)
    audit = told(shell, "audit", "--limit", "3", expect=1)
    other, account = audit["sources"]
    assert (other["missing"], other["missing_ranges"]) == ([[1, 1]], 1)
    assert account["missing"] == [[1, 1], [3, 3]]
    assert len(account["missing_seconds"]) == 2
    assert (account["missing_ranges"], account["missing_events"]) == (20, 20)
    assert audit["missing_total"] == 21
    seen = shell.run("mirror-consumer", "audit", "--limit", "3", expect=1)
    assert "18 missing ranges more" in seen.stdout
    assert len(told(shell, "audit", expect=1)["sources"][1]["missing"]) == 20


def test_what_is_accepted_is_no_longer_missing(shell: Shell, engine: Engine, topology: str) -> None:
    """Who accepted it, and why, is kept; what arrives after all counts as received; undoing the
    decision brings back what has not arrived."""
    register_branches(engine, 7)
    publish_events(topology, *map(numbered, (1, 5, 6, 9)))
    drain(shell)
    accept = ("mirror-consumer", "audit", "accept", SOURCE)
    done = shell.run(*accept, "2", "7", "--note", "the broker's disk").stdout
    assert "4 events accepted as lost" in done
    (account,) = told(shell, "audit", expect=1)["sources"]
    assert (account["missing"], account["accepted"]) == ([[8, 8]], 4)
    assert shell.run(*accept, "5", "6", "--note", "x", expect=1).stderr.count("missing") == 1
    shell.run(*accept, "8", "8", "--note", "this one, too")
    publish_events(topology, numbered(3))
    drain(shell)
    (account,) = told(shell, "audit")["sources"]
    assert (account["received"], account["accepted"], account["missing_events"]) == (5, 4, 0)
    first, second = told(shell, "audit", "decisions")["decisions"]
    assert (first["kind"], first["source"], first["first"], first["last"]) == (
        "accept",
        SOURCE,
        2,
        7,
    )
    assert (first["note"], second["note"]) == ("the broker's disk", "this one, too")
    assert first["decided_by"] == rows(engine, "SELECT session_user")[0][0]
    undo = ("mirror-consumer", "audit", "undo", str(first["id"]), "--note", "found it")
    shell.run(*undo)
    (account,) = told(shell, "audit", expect=1)["sources"]
    assert (account["missing"], account["accepted"]) == ([[2, 2], [4, 4], [7, 7]], 1)
    assert "was undone" in shell.run(*undo, expect=1).stderr
    assert [each["undone_by"] for each in told(shell, "audit", "decisions")["decisions"]] == [
        3,
        None,
        None,
    ]


def test_a_number_that_is_used_again_is_named(shell: Shell, engine: Engine, topology: str) -> None:
    """A copied host speaks as another one does; the same event twice, or an edited letter, is
    harmless. Accepting it settles it, and so does forgetting the source."""
    register_branches(engine, 7)
    publish_events(topology, *map(numbered, (1, 2, 3, 3)), numbered(4, branch_id=404))
    drain(shell)
    register_branches(engine, 404)
    (letter,) = json.loads(shell.run("mirror-replay", "list", "--json").stdout)["letters"]
    edited = wire.encode(replace(numbered(4), id="edited")).decode()
    shell.run("mirror-replay", "edit", str(letter["id"]), "--body-file", "-", typed=edited)
    shell.run("mirror-replay", "apply", "--all")
    drain(shell)
    assert told(shell, "audit")["reused_total"] == 0
    publish_events(topology, *(replace(numbered(each), id=f"copy-{each}") for each in (2, 3)))
    drain(shell)
    audit = told(shell, "audit", expect=1)
    (account,) = audit["sources"]
    assert (account["reused"], account["reused_events"]) == ([[2, 3]], 2)
    assert (audit["reused_total"], audit["missing_total"], account["received"]) == (2, 0, 4)
    seen = shell.run("mirror-consumer", "audit", expect=1)
    assert "2 numbers reused" in seen.stderr
    assert "reused in" in seen.stdout
    accept = ("mirror-consumer", "audit", "accept", SOURCE, "2", "3", "--note", "a copied host")
    shell.run(*accept)
    assert told(shell, "audit")["reused_total"] == 0
    shell.run("mirror-consumer", "audit", "undo", "1", "--note", "not yet")
    assert told(shell, "audit", expect=1)["reused_total"] == 2
    shell.run("mirror-consumer", "sources", "forget", SOURCE, "--note", "both hosts are new")
    assert told(shell, "audit")["sources"] == []


def test_a_forgotten_source_is_as_if_it_were_new(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """Undoing that brings back its numbers, beside those that came since."""
    register_branches(engine, 7)
    publish_events(topology, *map(numbered, (1, 2, 4)))
    drain(shell)
    forget = ("mirror-consumer", "sources", "forget", SOURCE, "--note", "the host is gone")
    assert "3 numbers forgotten" in shell.run(*forget).stdout
    assert told(shell, "audit")["sources"] == told(shell, "sources")["sources"] == []
    assert rows(engine, "SELECT count(*) FROM mirror_attempt") == [(3,)]
    assert "no number above 0" in shell.run(*forget, expect=1).stderr
    publish_events(topology, *map(numbered, (4, 5)))
    drain(shell)
    (account,) = told(shell, "audit", expect=1)["sources"]
    assert (account["missing"], account["received"]) == ([[1, 3]], 2)
    shell.run("mirror-consumer", "audit", "undo", "1", "--note", "it is back")
    (account,) = told(shell, "audit", expect=1)["sources"]
    assert (account["missing"], account["received"]) == ([[3, 3]], 4)
    assert rows(engine, "SELECT count(*) FROM ledger_forgotten") == [(0,)]


def test_sources_shows_who_reports(shell: Shell, engine: Engine, topology: str) -> None:
    """Each with its host and when it was heard, whether or not its numbers are folded yet."""
    register_branches(engine, 7)
    publish_events(topology, *map(numbered, (1, 3)), numbered(4, branch_id=404))
    drain(shell)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO ledger_arrival (source, sequences) VALUES ('urn:x', '{1}')")
        )
    spool, other = told(shell, "sources")["sources"]
    assert (spool["source"], spool["hostname"]) == (SOURCE, "vostok")
    counts = [spool[name] for name in ("highest", "missing", "accepted", "dead", "overflow")]
    assert counts == [4, 1, 0, 1, 0]
    assert spool["first_heard_at"] <= spool["last_heard_at"] <= other["last_heard_at"]
    assert (other["source"], other["hostname"], other["highest"]) == ("urn:x", None, 1)
    assert "vostok" in shell.run("mirror-consumer", "sources").stdout


@pytest.mark.parametrize(
    ("arguments", "expect", "words"),
    [
        (["audit", "accept", "/nobody", "1", "2", "--note", "x"], 1, "no source '/nobody'"),
        (["audit", "accept", "/nobody", "1", "2", "--note", " "], 2, "--note must say why"),
        (["audit", "undo", "7", "--note", "x"], 1, "no decision 7"),
        (["sources", "forget", "/nobody", "--note", "x"], 1, "no source '/nobody'"),
        (["sources", "forget", "/nobody"], 2, "--note"),
        (["audit", "--json", "decisions"], 2, "options must come after decisions"),
    ],
)
def test_a_decision_about_nothing_is_refused(
    shell: Shell, arguments: list[str], expect: int, words: str
) -> None:
    """The message says what there is not."""
    assert words in shell.run("mirror-consumer", *arguments, expect=expect).stderr


def test_events_without_a_number_are_simply_not_audited(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """The same goes for messages that cannot be read at all."""
    register_branches(engine, 7)
    publish_events(topology, failed(7, 0, "x"))
    publish(topology, b"{")
    drain(shell)
    assert told(shell, "audit") == {
        "sources": [],
        "missing_total": 0,
        "reused_total": 0,
        "overflow_total": 0,
    }


def test_rebuild_finds_what_somebody_changed_by_hand(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """It corrects the row; with --dry-run it only reports it."""
    register_branches(engine, 7, 8)
    publish_events(topology, completed(7, 0, "rev"), failed(7, 5, "why"), failed(8, 5, "why"))
    drain(shell)
    assert told(shell, "rebuild") == {"checked": 2, "differed": []}
    right = branch(engine, 7)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE branch SET mirror_failures = 9, last_mirrored_id = 'x' WHERE id = 7")
        )
    for arguments, expect in ((["--dry-run"], 1), (["7"], 0)):
        (difference,) = told(shell, "rebuild", *arguments, expect=expect)["differed"]
        assert difference["id"] == 7
        assert difference["before"]["mirror_failures"] == 9
        assert difference["after"]["mirror_failures"] == 1
        assert difference["after"]["last_mirrored_id"] == "rev"
    assert branch(engine, 7) == right
    assert told(shell, "rebuild", "--dry-run")["differed"] == []
    assert "branch 99" in shell.run("mirror-consumer", "rebuild", "7", "99", expect=1).stderr


def test_prune_forgets_only_what_decides_nothing(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """Old attempts before the last success go, and those that never ended. Of older failures only
    the number is kept. No branch row changes, and nothing goes that waits for an operator."""
    register_branches(engine, 7, 8)
    publish_events(
        topology,
        completed(7, 0, "first"),
        failed(7, 1, "old"),
        completed(7, 2, "last"),
        failed(7, 3, "since"),
        failed(8, 0, "never mirrored"),
        started(8, 1),
        failed(8, 2, "nor then"),
        started(8, 3),
        failed(404, 0, "unknown"),
        failed(405, 0, "unknown"),
    )
    drain(shell)
    (letter, other) = rows(engine, "SELECT id FROM dead_letter")
    shell.run("mirror-replay", "discard", str(letter.id), "--note", "x")
    before = rows(engine, "SELECT * FROM branch ORDER BY id")
    assert before[1].mirror_failures == 2
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO suspect (digest) VALUES ('x')"))
        connection.execute(
            text("""
            INSERT INTO letter_overflow (reason, digests, seen_at, resolved_at)
            SELECT 'invalid', '{x}', now() - interval '1 d', CASE WHEN is_old THEN now() END
            FROM pg_catalog.unnest('{true,false}'::boolean[]) AS is_old
            """)
        )
    nothing = {"attempts": 0, "letters": 0, "overflow": 0, "suspects": 0, "operations": 0}
    assert told(shell, "prune", "--keep", "30000") == nothing
    pruned = {"attempts": 4, "letters": 1, "overflow": 1, "suspects": 1, "operations": 1}
    assert told(shell, "prune", "--keep", "0") == pruned
    assert told(shell, "prune", "--keep", "0") == nothing
    assert told(shell, "rebuild")["differed"] == []
    assert rows(engine, "SELECT * FROM branch ORDER BY id") == before
    assert rows(engine, "SELECT id FROM dead_letter") == [(other.id,)]
    assert rows(engine, "SELECT resolved_at FROM letter_overflow") == [(None,)]
