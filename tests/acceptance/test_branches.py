"""The register of branches, as operators keep it."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.message import Message
from mirrorfeed.consumer.branches.register import NewBranch, find, register, remove
from mirrorfeed.consumer.errors import BranchConflict
from mirrorfeed.contract.events import Envelope
from tests.builders import completed, failed, messages, started
from tests.commands import Shell
from tests.servers import branch, register_branches, rows, state_of, wait_for_rows
from tests.terminal import terminal

REGISTER = "SELECT id, unique_name, url FROM branch ORDER BY id"
LETTERS = "SELECT reason, branch_id, state FROM dead_letter"
LOCKED_OUT = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def numbered(first: int, *envelopes: Envelope) -> list[Message]:
    """Messages of one source, as a spool numbers them."""
    return messages(*(replace(each, sequence=first + i) for i, each in enumerate(envelopes)))


def test_branches_are_registered_from_a_file(shell: Shell, engine: Engine, tmp_path: Path) -> None:
    """The import can be repeated, and a spreadsheet's byte order mark does no harm."""
    file = tmp_path / "branches.csv"
    file.write_bytes('\ufeffid,unique_name,url\n1,one,https://host/1\n2,"zwei, größe",\n'.encode())
    result = shell.run("mirror-consumer", "branches", "import", str(file))
    assert result.stdout == "branches registered: 2 new, 0 already there\n"
    result = shell.run("mirror-consumer", "branches", "import", "-", typed=file.read_text())
    assert result.stdout == "branches registered: 0 new, 2 already there\n"
    assert rows(engine, REGISTER) == [(1, "one", "https://host/1"), (2, "zwei, größe", None)]


def test_the_list_of_a_puller_is_a_file_of_branches(
    shell: Shell, engine: Engine, tmp_path: Path
) -> None:
    """What it says to the puller is passed over."""
    file = tmp_path / "branches.csv"
    file.write_text("id,unique_name,url,vcs,interval,refs\n1,one,https://host/1,git,6h,all\n")
    shell.run("mirror-consumer", "branches", "import", str(file))
    assert rows(engine, REGISTER) == [(1, "one", "https://host/1")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id;unique_name\n1;b1\n", "must begin with a heading of id, unique_name"),
        ("id,unique_name,color\n1,b1,red\n", "must begin with a heading"),
        ("id,unique_name,id\n3,three,4\n", "branches.csv has id more than once"),
        ("id,unique_name\n3,three\nx,four\n", "line 3: id 'x' is not a number"),
        ("id,unique_name\n3,three\n0,four\n", "line 3: branch_id must be a whole number"),
        ("id,unique_name\n3,three\n4\n", "line 3: expected 2 fields"),
        ("id,unique_name\n3,three\n4,\n", "line 3: unique_name must not be empty"),
        (
            "id,unique_name\n3,three\n1,uno\n",
            "branch 1 'uno' (no URL) conflicts with registered branch 1 'b1'",
        ),
        (
            "id,unique_name\n3,three\n9,b1\n",
            "branch 9 'b1' (no URL) conflicts with registered branch 1 'b1' (no URL): only one",
        ),
        (
            "id,unique_name\n3,three\n3,four\n",
            "branch 3 'three' (no URL) conflicts with branch 3 'four'",
        ),
        (
            "id,unique_name\n3,three\n4,three\n",
            "branch 4 'three' (no URL) conflicts with branch 3 'three' (no URL): only one",
        ),
        ("id,unique_name\n3,\udcff\n", "cannot be read"),
    ],
)
def test_a_bad_file_registers_nothing(
    shell: Shell, engine: Engine, tmp_path: Path, text: str, says: str
) -> None:
    """The error names the line and the value."""
    register_branches(engine, 1)
    file = tmp_path / "branches.csv"
    file.write_bytes(text.encode(errors="surrogateescape"))
    result = shell.run("mirror-consumer", "branches", "import", str(file), expect=2)
    assert says in result.stderr
    assert rows(engine, "SELECT id FROM branch") == [(1,)]


def test_an_import_updates_names_and_urls(shell: Shell, engine: Engine) -> None:
    """Without --update one changed URL stops it, and the error says so. A dry run shows what would
    change. Names may be swapped, a new branch may have a freed one, and an empty URL says nothing.
    """
    register_branches(engine, 1, 2, 3, 4)
    url = "https://jane:s3cret@host/4"
    shell.run("mirror-consumer", "branches", "update", "4", "--url", url)
    before = rows(engine, REGISTER)
    text = "id,unique_name,url\n1,b2,https://host/1\n2,b1,\n3,trunk,\n4,b4,\n5,b3,\n"
    command = ("mirror-consumer", "branches", "import", "-")

    refused = shell.run(*command, typed=text, expect=2).stderr
    assert "branch 1 'b2' https://host/1 conflicts with registered branch 1 'b1'" in refused
    assert "import --update (with --dry-run it only shows what it would change)" in refused
    dry = shell.run(*command, "--update", "--dry-run", typed=text).stdout.splitlines()
    assert [line.split() for line in dry[:-1]] == [
        ["branch", "column", "before", "after"],
        ["1", "unique_name", "b1", "b2"],
        ["1", "url", "https://host/1"],
        ["2", "unique_name", "b2", "b1"],
        ["3", "unique_name", "b3", "trunk"],
        ["5", "unique_name", "b3"],
    ]
    assert dry[-1] == "dry run: branches registered: 1 new, 3 changed, 1 already there"
    assert rows(engine, REGISTER) == before

    document = json.loads(shell.run(*command, "--update", "--json", typed=text).stdout)
    changed = document.pop("branches")
    assert document == {
        "dry_run": False, "new": 1, "changed": 3, "unchanged": 1, "taken_over": 0,
    }  # fmt: skip
    assert changed[0] == {
        "id": 1,
        "before": {"unique_name": "b1", "url": None},
        "after": {"unique_name": "b2", "url": "https://host/1"},
    }
    assert rows(engine, REGISTER) == [
        (1, "b2", "https://host/1"), (2, "b1", None), (3, "trunk", None), (4, "b4", url),
        (5, "b3", None),
    ]  # fmt: skip
    assert shell.run(*command, "--update", typed=text).stdout == (
        "branches registered: 0 new, 0 changed, 5 already there\n"
    )


def test_an_update_never_moves_a_name_to_another_number(shell: Shell, engine: Engine) -> None:
    """A mistyped number would otherwise leave the attempts behind."""
    register_branches(engine, 1, 2)
    command = ("mirror-consumer", "branches")
    text = "id,unique_name\n11,b1\n"
    refused = shell.run(*command, "import", "-", "--update", typed=text, expect=2).stderr
    assert "branch 11 'b1' (no URL) conflicts with registered branch 1 'b1'" in refused
    refused = shell.run(*command, "rename", "1", "b2", expect=2).stderr
    assert "branch 1 'b2' (no URL) conflicts with registered branch 2 'b2'" in refused
    assert rows(engine, REGISTER) == [(1, "b1", None), (2, "b2", None)]


def test_a_long_list_of_conflicts_is_cut(shell: Shell, engine: Engine) -> None:
    """So that the remedy stays in sight."""
    register_branches(engine, *range(1, 21))
    text = "id,unique_name\n" + "".join(f"{number},c{number}\n" for number in range(1, 21))
    said = shell.run("mirror-consumer", "branches", "import", "-", typed=text, expect=2).stderr
    *_, last, rest, remedy = map(str.strip, said.splitlines())
    assert (last[:9], rest, "--update" in remedy) == ("branch 10", "and 10 more", True)


def test_a_branch_keeps_its_state_under_another_name(shell: Shell, engine: Engine) -> None:
    """Events name it by its number. The commands take its name, too."""
    shell.run("mirror-consumer", "branches", "add", "1", "~jane/main", "--url", "https://a/1")
    Applier(engine).apply(messages(failed(1, 0, "x")))
    said = shell.run("mirror-consumer", "branches", "rename", "~jane/main", "~jane/trunk").stdout
    assert said.splitlines()[1].split() == ["1", "unique_name", "~jane/main", "~jane/trunk"]
    update = ("mirror-consumer", "branches", "update", "~jane/trunk", "--url")
    assert "https://***@b/1" in shell.run(*update, "https://jane:s3cret@b/1").stdout
    assert shell.run(*update, "https://jane:s3cret@b/1").stdout == "it is so already\n"
    document = json.loads(shell.run(*update, "", "--json").stdout)
    assert document["branches"][0]["after"] == {"unique_name": "~jane/trunk", "url": None}
    Applier(engine).apply(messages(failed(1, 1, "x")))
    row = branch(engine, 1)
    assert (row.unique_name, row.url, row.mirror_failures) == ("~jane/trunk", None, 2)


def test_the_register_is_listed_and_shown(shell: Shell, engine: Engine) -> None:
    """People see no password; programs get what is registered."""
    url = "https://jane:s3cret@host/2"
    register_branches(engine, 10)
    shell.run("mirror-consumer", "branches", "add", "2", "two\x1b[2J", "--url", url)
    Applier(engine).apply(messages(started(2, 0), completed(2, 60, "r"), failed(3, 0, "x")))
    listed = shell.run("mirror-consumer", "branches", "list").stdout.splitlines()
    assert [line.split() for line in listed] == [
        ["id", "name", "url"],
        ["2", "two\ufffd[2J", "https://***@host/2"],
        ["10", "b10"],
    ]
    document = json.loads(shell.run("mirror-consumer", "branches", "list", "--json").stdout)
    assert document["branches"][0] == {"id": 2, "unique_name": "two\x1b[2J", "url": url}
    assert shell.run("mirror-consumer", "branches", "show", "2").stdout.splitlines() == [
        "id: 2",
        "unique_name: two\ufffd[2J",
        "url: https://***@host/2",
        "attempts: 2",
        "first_attempt_at: 2026-01-01 00:00:00 UTC",
        "last_attempt_at: 2026-01-01 00:01:00 UTC",
        "dead_letters: 0",
    ]
    document = json.loads(shell.run("mirror-consumer", "branches", "show", "b10", "--json").stdout)
    assert document == {
        "id": 10, "unique_name": "b10", "url": None, "attempts": 0, "first_attempt_at": None,
        "last_attempt_at": None, "dead_letters": 0,
    }  # fmt: skip
    said = shell.run("mirror-consumer", "branches", "show", "nobody\x1b[2J", expect=1).stderr
    assert r"branch 'nobody\x1b[2J' is not registered" in said


def test_a_branch_is_removed_with_its_attempts(shell: Shell, engine: Engine) -> None:
    """Letters about it stay, and later events become letters, which can be applied if it comes
    back. The audit misses nothing."""
    register_branches(engine, 1, 2, 3)
    apply = Applier(engine).apply
    apply(numbered(1, failed(1, 0, "x"), failed(2, 0, "x"), failed(3, 0, "x"), failed(9, 0, "x")))
    said = shell.run("mirror-consumer", "branches", "remove", "1", "b2", "1", "--yes").stdout
    assert said == "branches removed: 2, with 2 attempts\n"
    assert rows(engine, "SELECT branch_id FROM mirror_attempt") == [(3,)]
    apply(numbered(5, failed(1, 1, "x")))
    assert rows(engine, f"{LETTERS} ORDER BY branch_id") == [
        ("unknown-branch", 1, "dead"), ("unknown-branch", 9, "dead"),
    ]  # fmt: skip
    shell.run("mirror-consumer", "audit")

    shell.run("mirror-consumer", "branches", "add", "1", "b1")
    shell.run("mirror-replay", "apply", "--branch", "1")
    assert branch(engine, 1).mirror_failures == 1
    missing = shell.run("mirror-consumer", "branches", "remove", "3", "4", "--yes", expect=1)
    assert "branch 4 is not registered" in missing.stderr
    assert rows(engine, "SELECT id FROM branch ORDER BY id") == [(1,), (3,)]


def test_a_removal_is_confirmed_by_a_person(shell: Shell, engine: Engine) -> None:
    """Where there is none to ask, it takes --yes."""
    register_branches(engine, 1)
    Applier(engine).apply(messages(failed(1, 0, "x")))
    command = ("mirror-consumer", "branches", "remove", "1")
    assert "give --yes" in shell.run(*command, typed="y\n", expect=2).stderr
    for answer, exit_code, left in (("\n", 1, [(1,)]), ("y\n", 0, [])):
        with terminal(shell, *command, columns=80) as shown:
            shown.type(answer)
            assert shown.end() == exit_code
            assert "1 'b1': 1 attempt, 0 dead letters" in shown.written
        assert rows(engine, "SELECT id FROM branch") == left


def test_an_event_in_hand_of_a_branch_that_is_removed_becomes_a_letter(engine: Engine) -> None:
    """A worker waits for the removal, and the rest of its batch is applied."""
    register_branches(engine, 1, 2)
    batch = messages(failed(1, 0, "x"), failed(2, 0, "x"))
    with ThreadPoolExecutor(1) as threads:
        with engine.begin() as connection:
            remove(connection, [find(connection, "1")])
            applying = threads.submit(Applier(engine).apply, batch)
            wait_for_rows(engine, LOCKED_OUT, [(1,)])
        applying.result()
    assert rows(engine, LETTERS) == [("unknown-branch", 1, "dead")]
    assert state_of(engine, 2).mirror_failures == 1


def test_two_operators_never_undo_each_others_changes(engine: Engine) -> None:
    """Who changed a branch that somebody else has changed meanwhile is told to look again."""
    register_branches(engine, 1)
    with engine.connect() as first, engine.connect() as second:
        read = find(first, "1")
        register(second, [NewBranch(1, "renamed")], update=True)
        second.commit()
        with pytest.raises(BranchConflict, match="look again"):
            remove(first, [read])
    assert rows(engine, REGISTER) == [(1, "renamed", None)]


@pytest.mark.parametrize("ahead", [timedelta(minutes=50), timedelta(minutes=70)])
def test_a_state_from_the_future_is_refused_as_an_event_is(
    shell: Shell, engine: Engine, ahead: timedelta
) -> None:
    """An hour is allowed, or what --future-tolerance-seconds says: with a success in 2126 none of
    those before it would ever show."""
    success = (datetime.now(UTC) + ahead).isoformat()
    text = f"id,unique_name,last_mirror_attempt,last_mirrored\n1,one,{success},{success}\n"
    command = ["mirror-consumer", "branches", "import", "-"]
    if ahead > timedelta(hours=1):
        refused = shell.run(*command, typed=text, expect=2).stderr
        assert f"standard input, line 2: last_mirror_attempt '{success}'" in refused
        assert rows(engine, REGISTER) == []
        command += ["--future-tolerance-seconds", "7200"]
    shell.run(*command, typed=text)
    assert branch(engine, 1).last_mirrored is not None
