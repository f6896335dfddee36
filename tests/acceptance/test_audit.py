"""Proof that nothing was lost, or of what was."""

import json
from typing import Any

from sqlalchemy import Engine, text

from mirrorfeed.contract.events import Envelope, MirrorFailed
from tests.builders import at, completed, failed
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


def test_events_without_a_number_are_simply_not_audited(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """The same goes for messages that cannot be read at all."""
    register_branches(engine, 7)
    publish_events(topology, failed(7, 0, "x"))
    publish(topology, b"{")
    drain(shell)
    assert told(shell, "audit") == {"sources": [], "missing_total": 0}


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
    """Attempts before the last success go once they are old enough, and no branch row changes."""
    register_branches(engine, 7, 8)
    publish_events(
        topology,
        completed(7, 0, "first"),
        failed(7, 1, "old"),
        completed(7, 2, "last"),
        failed(7, 3, "since"),
        failed(8, 0, "never mirrored"),
        failed(404, 0, "unknown"),
        failed(405, 0, "unknown"),
    )
    drain(shell)
    (letter, other) = rows(engine, "SELECT id FROM dead_letter")
    shell.run("mirror-replay", "discard", str(letter.id), "--note", "x")
    before = rows(engine, "SELECT * FROM branch ORDER BY id")
    assert told(shell, "prune", "--keep", "30000") == {"attempts": 0, "letters": 0}
    assert told(shell, "prune", "--keep", "0") == {"attempts": 2, "letters": 1}
    assert told(shell, "rebuild")["differed"] == []
    assert rows(engine, "SELECT * FROM branch ORDER BY id") == before
    assert rows(engine, "SELECT id FROM dead_letter") == [(other.id,)]
