"""Dead letters, from the message to the operator's commands and back into the branch table."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.burial import bury
from mirrorfeed.consumer.apply.message import Rejection, read_message
from mirrorfeed.consumer.apply.suspects import unread
from mirrorfeed.contract.reasons import Reason
from tests.builders import bodies, completed, failed, started
from tests.commands import Shell
from tests.servers import (
    publish,
    publish_events,
    refuse_in_database,
    register_branches,
    rows,
    wait_for,
)
from tests.wire_samples import body_with

STATES = "SELECT id, state FROM dead_letter ORDER BY id"


def told(shell: Shell, *arguments: str, expect: int = 0) -> Any:
    """What mirror-replay says as JSON, which is all it prints there."""
    return json.loads(shell.run("mirror-replay", *arguments, "--json", expect=expect).stdout)


def listed(shell: Shell, *arguments: str) -> list[dict[str, Any]]:
    letters = told(shell, "list", *arguments)["letters"]
    assert isinstance(letters, list)
    return letters


def drain(shell: Shell, *options: str) -> None:
    shell.run("mirror-consumer", "run", "--drain", *options)


CASES: dict[Reason, bytes] = {
    Reason.TOO_LARGE: b"x" * 70_000,
    Reason.MALFORMED: b"{",
    Reason.UNKNOWN_TYPE: body_with(type="mirror.paused"),
    Reason.INVALID: body_with(subject="8"),
    Reason.FROM_THE_FUTURE: bodies([failed(7, 5e8, "x")])[0],
    Reason.UNKNOWN_BRANCH: bodies([failed(404, 0, "x")])[0],
    Reason.REJECTED_BY_DATABASE: bodies([failed(7, 0, "poison")])[0],
    Reason.DELIVERY_LIMIT: bodies([failed(7, 1, "x")])[0],
}


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_can_be_put_right_or_discarded(
    shell: Shell, engine: Engine, topology: str, reason: Reason
) -> None:
    """Each letter is applied once its cause is gone, or edited, or discarded."""
    register_branches(engine, 7)
    refuse_in_database(engine, "failure_reason = 'poison'")
    if reason == Reason.DELIVERY_LIMIT:
        with engine.begin() as connection:
            message = unread(CASES[reason], {}, trials=0)
            assert isinstance(message.content, Rejection)
            bury(connection, [(message, message.content)])
    else:
        publish(topology, CASES[reason])
        drain(shell)
    (letter,) = listed(shell, "--reason", reason)
    assert (letter["reason"], letter["state"], letter["attempts"]) == (reason, "dead", 1)
    number = str(letter["id"])
    assert told(shell, "show", number)["detail"] == letter["detail"]
    match reason:
        case Reason.DELIVERY_LIMIT:
            pass
        case Reason.UNKNOWN_BRANCH:
            assert "mirror-consumer branches add 404 NAME" in letter["detail"]
            shell.run("mirror-consumer", "branches", "add", "404", "b404")
        case Reason.FROM_THE_FUTURE:
            report = told(shell, "apply", number, "--future-tolerance-seconds", "1e9")
            assert report["applied"] == 1
            return
        case Reason.TOO_LARGE | Reason.MALFORMED:
            shell.run("mirror-replay", "discard", number, "--note", "noise")
            assert listed(shell, "--all") == []
            return
        case _:
            mended = bodies([failed(7, 0, "mended")])[0].decode()
            path = Path(shell.variables["MIRRORFEED_SPOOL"]).with_name("mended.json")
            path.write_text(mended)
            letter = told(shell, "edit", number, "--body-file", str(path))
            assert letter["body"] == mended
            assert letter["original_body"] == CASES[reason].decode()
    report = told(shell, "apply", number)
    assert report == {
        "applied": 1,
        "unchanged": 0,
        "dead": 0,
        "skipped": 0,
        "letters": [{"id": letter["id"], "outcome": "applied", "reason": None, "detail": None}],
    }
    assert rows(engine, STATES) == [(letter["id"], "replayed")]


def test_at_three_in_the_morning(shell: Shell, engine: Engine, topology: str) -> None:
    """An operator looks, tries one letter, and applies the rest; nothing newer is overwritten."""
    publish_events(topology, *(failed(404, second, "old") for second in range(5)))
    drain(shell)
    (group,) = told(shell, "list", "--group")["groups"]
    assert (group["letters"], group["reason"]) == (5, "unknown-branch")
    shell.run("mirror-consumer", "branches", "add", "404", "b404")
    publish_events(topology, completed(404, 50, "rev-50"))
    drain(shell)
    before = rows(engine, "SELECT * FROM branch")
    dry = told(shell, "apply", "--reason", "unknown-branch", "--dry-run")
    assert (dry["applied"], dry["dry_run"], dry["branches"]) == (5, True, [])
    assert rows(engine, "SELECT DISTINCT state FROM dead_letter") == [("dead",)]
    oldest = listed(shell, "--limit", "1")[0]["id"]
    first = told(shell, "apply", "--branch", "404", "--limit", "1")
    assert [letter["id"] for letter in first["letters"]] == [oldest]
    rest = told(shell, "apply", "--all", "--rate", "1000")
    assert rest["applied"] == 4
    assert rows(engine, "SELECT * FROM branch") == before
    assert rows(engine, "SELECT count(*) FROM mirror_attempt") == [(6,)]


def test_what_remains_dead_is_told_by_the_exit_code(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """People and programs also see which letters those are."""
    publish_events(topology, started(404, 0))
    drain(shell)
    result = shell.run("mirror-replay", "apply", "--all", expect=1)
    assert "0 applied, 0 already known, 1 still dead" in result.stdout
    assert "branch 404 is not registered" in " ".join(result.stdout.split())
    (letter,) = told(shell, "apply", "--all", expect=1)["letters"]
    assert (letter["outcome"], letter["reason"]) == ("dead", "unknown-branch")


def test_the_editor_is_the_operators(
    shell: Shell, engine: Engine, topology: str, tmp_path: Path
) -> None:
    """What it saves becomes the new body; a body that would still be dead is refused and kept."""
    register_branches(engine, 1)
    publish(topology, body_with(subject="8"))
    drain(shell)
    (number,) = (str(letter["id"]) for letter in listed(shell))
    seen = tmp_path / "seen.json"

    def editing(script: str) -> Shell:
        editor = tmp_path / "editor"
        editor.write_text(f"#!/bin/sh\ncp $1 {seen}\nsleep 0.01\n{script}\n")
        editor.chmod(0o755)
        return Shell({**shell.variables, "EDITOR": str(editor), "VISUAL": ""})

    unchanged = editing("true").run("mirror-replay", "edit", number, expect=1)
    assert "nothing was changed" in unchanged.stderr
    assert '\n  "subject": "8",\n' in seen.read_text()
    wrong = 'sed -i \'s/"subject": "8"/"subject": "nine"/\' $1'
    refused = editing(wrong).run("mirror-replay", "edit", number, expect=1)
    assert "invalid: subject must be '1' as in data" in refused.stderr
    kept = Path(refused.stderr.split("kept in ")[1].strip())
    assert '"nine"' in kept.read_text()
    kept.unlink()
    right = 'sed -i \'s/"subject": "8"/"subject": "1"/\' $1'
    shown = editing(right).run("mirror-replay", "edit", number)
    assert '"subject": "1"' in shown.stdout
    assert '"subject": "8"' in shown.stdout
    assert f"mirror-replay apply {number}" in shown.stderr
    assert told(shell, "apply", number)["applied"] == 1


@pytest.mark.parametrize(
    ("arguments", "expect", "words"),
    [
        (["apply"], 2, "give --all"),
        (["apply", "99"], 1, "there is no letter 99"),
        (["show", "99"], 1, "there is no letter 99"),
        (["list", "--since", "yesterday"], 2, "'yesterday'"),
        (["list", "--reason", "bad-luck"], 2, "bad-luck"),
        (["list", "--branch", "0"], 2, "branch_id"),
        (["discard", "1", "--note", " "], 2, "--note"),
        (["discard", "1"], 2, "--note"),
        (["discard", "--note", "x"], 2, "give --all"),
        (["discard", "99", "--note", "x"], 1, "there is no letter 99"),
        (["discard", "--overflow", "--note", "x"], 2, "give --all"),
        (["discard", "--overflow", "--branch", "7", "--note", "x"], 2, "select by --source"),
        (["restore"], 2, "give --all"),
        (["restore", "--discarded-at", "noon"], 2, "--discarded-at 'noon'"),
        (["restore", "--overflow", "1"], 2, "select by --source"),
        (["list", "--overflow", "--group"], 2, "--overflow excludes --group"),
        (["list", "--group-by", "mood"], 2, "mood"),
        (["restore", "99"], 1, "there is no letter 99"),
        (["edit", "99"], 1, "there is no letter 99"),
        (["import", "/no/such/file"], 2, "/no/such/file"),
    ],
)
def test_a_wrong_call_is_refused(
    shell: Shell, arguments: list[str], expect: int, words: str
) -> None:
    """The message names the value and, unless it is obvious, the remedy."""
    assert words in shell.run("mirror-replay", *arguments, expect=expect).stderr


def test_a_database_that_is_away_is_told_by_the_exit_code(shell: Shell) -> None:
    """It is 3, as for every command."""
    nowhere = Shell({**shell.variables, "MIRRORFEED_DATABASE_URL": "postgresql://127.0.0.1:1/x"})
    nowhere.run("mirror-replay", "list", expect=3)
    nowhere.run("mirror-consumer", "audit", expect=3)


def test_discarding_can_be_undone(shell: Shell, engine: Engine, topology: str) -> None:
    """The note that says why it was discarded stays."""
    publish(topology, b"{")
    drain(shell)
    (number,) = (str(letter["id"]) for letter in listed(shell))
    shell.run("mirror-replay", "discard", number, "--note", "a test of the network")
    assert listed(shell, "--state", "discarded")[0]["note"] == "a test of the network"
    shell.run("mirror-replay", "apply", number, expect=1)
    shell.run("mirror-replay", "restore", number)
    assert [letter["note"] for letter in listed(shell)] == ["a test of the network"]


MIR = "/pullers/mir/1"
SELECTIONS = {
    "3 4": [3, 4],
    "--reason malformed": [1],
    "--type mirror.paused": [2],
    "--branch 404": [3, 4, 5],
    f"--source {MIR}": [2],
    "--since 2126-01-01": [],
    "--reason unknown-branch --limit 1": [3],
    "--all": [1, 2, 3, 4, 5],
}


def test_discard_and_restore_select_as_apply_does(shell: Shell, engine: Engine) -> None:
    """They say what they did, and a dry run what they would do."""
    unknown = [failed(404, second, "x") for second in range(3)]
    applier = Applier(engine)
    for body in (b"{", body_with(type="mirror.paused", source=MIR), *bodies(unknown)):
        applier.apply([read_message(body)])
    discarded = "SELECT id FROM dead_letter WHERE state = 'discarded' ORDER BY id"
    for options, expected in SELECTIONS.items():
        done = told(shell, "discard", *options.split(), "--note", "noise")
        assert (done["discarded"], done["letters"]) == (len(expected), expected), options
        assert [number for (number,) in rows(engine, discarded)] == expected
        restored = shell.run("mirror-replay", "restore", *options.split()).stdout
        assert restored == f"{len(expected)} letter{'s' * (len(expected) != 1)} restored\n"
        assert rows(engine, discarded) == []
    dry = told(shell, "discard", "--all", "--note", "noise", "--dry-run")
    assert dry == {"discarded": 5, "letters": [1, 2, 3, 4, 5], "dry_run": True}
    assert rows(engine, discarded) == []
    said = shell.run("mirror-replay", "discard", "3", "4", "--note", "noise").stdout
    assert said == "2 letters discarded; to take that back: mirror-replay restore 3 4\n"
    would = shell.run("mirror-replay", "restore", "--all", "--dry-run").stdout
    assert would == "dry run: 2 letters would be restored\n"
    assert rows(engine, discarded) == [(3,), (4,)]


def test_what_discard_says_takes_exactly_that_back(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """However many letters there were, and although others were discarded before."""
    publish(topology, *(b"{%d" % number for number in range(12)))
    drain(shell)
    shell.run("mirror-replay", "discard", "1", "--note", "earlier")
    undo = told(shell, "discard", "--reason", "malformed", "--note", "too much")["undo"]
    assert "--discarded-at" in undo
    restored = json.loads(shell.run(*undo.split(), "--json").stdout)
    assert restored == {"restored": 11, "letters": list(range(2, 13))}
    (letter,) = listed(shell, "--state", "discarded")
    assert (letter["id"], letter["note"]) == (1, "earlier")
    assert shell.run("mirror-replay", *undo.split()[1:]).stdout == "0 letters restored\n"


def test_letters_are_counted_by_host_and_branch(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """Or by reason alone; by default, by reason and error."""
    publish_events(topology, failed(404, 0, "x"), failed(404, 1, "x"), failed(405, 0, "x"))
    publish(topology, body_with(source=MIR, subject="8"), body_with(source="urn:x"), b"{")
    drain(shell)

    def grouped(*options: str) -> list[list[Any]]:
        counted = ("letters", "oldest", "newest", "first_id")
        return [
            [group["letters"], *(value for name, value in group.items() if name not in counted)]
            for group in told(shell, "list", *options)["groups"]
        ]

    by_host = grouped("--group-by", "host")
    assert sorted(by_host, key=str) == [[1, "mir"], [2, None], [3, "vostok"]]
    assert [2, 404] in grouped("--group-by", "branch")
    assert grouped("--group-by", "reason")[0] == [4, "unknown-branch"]
    assert grouped("--group", "--group-by", "reason") == grouped("--group-by", "reason")
    error = "branch # is not registered: mirror-consumer branches add # NAME, then replay"
    assert grouped("--group")[0] == [4, "unknown-branch", error]
    heading, first, *_ = shell.run(
        "mirror-replay", "list", "--group-by", "host", "--branch", "405"
    ).stdout.splitlines()
    assert heading.split() == ["letters", "host", "oldest", "newest", "first", "id"]
    assert first.split()[:2] == ["1", "vostok"]


def test_messages_that_were_not_kept_are_settled(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """They are listed by source and reason, and the audit counts them, until somebody has decided;
    that can be undone."""
    publish(topology, *(body_with(source=MIR, sequence=f"{n:020}") for n in range(1, 9)))
    publish(topology, *(b"{%d" % number for number in range(4)))
    drain(shell, "--letters-per-hour", "1")
    kept = len(listed(shell, "--source", MIR)), len(listed(shell, "--reason", "malformed"))
    first, second = told(shell, "list", "--overflow")["overflow"]
    assert (first["source"], first["reason"]) == (MIR, "unknown-branch")
    assert (second["source"], second["reason"]) == (None, "malformed")
    assert (first["messages"], second["messages"]) == (8 - kept[0], 4 - kept[1])
    assert first["first_seen_at"] <= first["last_seen_at"]
    audit = shell.run("mirror-consumer", "audit", expect=1)
    assert f"{12 - sum(kept)} messages neither applied nor kept" in audit.stderr

    discard = ("discard", "--overflow", "--reason", "malformed", "--note", "a test")
    assert told(shell, *discard, "--dry-run")["discarded"] == second["messages"]
    assert told(shell, "list", "--overflow")["overflow"] == [first, second]
    done = shell.run("mirror-replay", *discard).stdout
    assert done.startswith(f"{second['messages']} messages not kept discarded; to take that back: ")
    assert told(shell, "list", "--overflow")["overflow"] == [first]
    (settled,) = told(shell, "list", "--overflow", "--state", "discarded")["overflow"]
    assert settled == {**second, "note": "a test"}
    shell.run("mirror-replay", "discard", "--overflow", "--source", MIR, "--note", "as well")
    shell.run("mirror-consumer", "audit")
    shell.run(*done.split("take that back: ")[1].split())
    assert told(shell, "list", "--overflow")["overflow"] == [second]
    shell.run("mirror-consumer", "audit", expect=1)
    assert told(shell, "restore", "--overflow", "--all") == {"restored": first["messages"]}
    assert told(shell, "list", "--overflow")["overflow"] == [first, second]


def test_letters_move_between_systems(
    shell: Shell, engine: Engine, topology: str, tmp_path: Path
) -> None:
    """They travel as lines of JSON, and letters that exist already stay as they are."""
    publish(topology, b"\xff\0", b"{")
    drain(shell)
    lines = shell.run("mirror-replay", "export").stdout
    assert len(lines.splitlines()) == 2
    file = tmp_path / "letters.jsonl"
    file.write_text(lines)
    assert told(shell, "import", str(file)) == {"imported": 0, "already_there": 2}


def test_ctrl_c_leaves_a_clean_state(shell: Shell, engine: Engine, topology: str) -> None:
    """The replay stops between two transactions and says how far it came."""
    register_branches(engine, 1)
    publish_events(topology, *(failed(404, second, "x") for second in range(40)))
    drain(shell)
    shell.run("mirror-consumer", "branches", "add", "404", "b404")
    terminal, its_end = pty.openpty()
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        replay = subprocess.Popen(
            shell.arguments(("mirror-replay", "apply", "--all", "--rate", "8", "--json")),
            env={**shell.environment(), "TERM": "xterm"},
            stdout=subprocess.PIPE,
            stderr=its_end,
            text=True,
        )
        os.close(its_end)
        seen = b""
        while b"5%" not in seen:  # the first two of forty
            seen += screen.read(1024)
        replay.send_signal(signal.SIGINT)
        report = json.loads(replay.communicate(timeout=20)[0])
    assert replay.returncode == 1
    done = report["applied"]
    assert 2 <= done < 40
    assert rows(engine, "SELECT state, count(*) FROM dead_letter GROUP BY 1 ORDER BY 1") == [
        ("dead", 40 - done),
        ("replayed", done),
    ]
    assert rows(engine, "SELECT mirror_failures FROM branch WHERE id = 404") == [(done,)]


def test_a_replay_that_is_killed_repeats_and_loses_nothing(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """After a SIGKILL half way, the next replay does the rest."""
    publish_events(topology, *(failed(404, second, "x") for second in range(40)))
    drain(shell)
    shell.run("mirror-consumer", "branches", "add", "404", "b404")
    replay = shell.start("mirror-replay", "apply", "--all", "--rate", "20")
    replayed = "SELECT count(*) FROM dead_letter WHERE state = 'replayed'"
    wait_for(lambda: rows(engine, replayed) != [(0,)], "the first letters")
    replay.kill()
    replay.communicate()
    ((done,),) = rows(engine, replayed)
    assert rows(engine, "SELECT mirror_failures FROM branch") == [(done,)]
    assert told(shell, "apply", "--all")["applied"] == 40 - done
    assert rows(engine, "SELECT mirror_failures FROM branch") == [(40,)]


def test_a_program_gets_a_long_list_whole_and_a_person_its_beginning(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """A person also sees how many more there are and how to list them."""
    publish_events(topology, *(failed(404, second, "x") for second in range(120)))
    drain(shell)
    assert len(listed(shell)) == 120
    assert "20 more" in shell.run("mirror-replay", "list").stderr
    assert len(listed(shell, "--limit", "3")) == 3
