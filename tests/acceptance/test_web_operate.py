"""What the page does with `--operate`, on real servers: letters, the ledger, partitions."""

import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.dead_letters.plan import plan
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.consumer.errors import OperationError
from mirrorfeed.consumer.operations import perform, store
from mirrorfeed.consumer.operations.perform import apply_planned
from mirrorfeed.consumer.operations.preview import preview
from mirrorfeed.consumer.operations.store import Kind, State
from mirrorfeed.consumer.web.actions import ACTIONS
from mirrorfeed.consumer.web.context import Settings
from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope
from tests.builders import at, completed, failed, messages
from tests.commands import Shell
from tests.letters import bury
from tests.pages import Answer, Site, opened
from tests.servers import (
    PATIENCE_SECONDS,
    register_branches,
    rows,
    state_of,
    wait_for,
    wait_for_rows,
)

DEAD = "SELECT count(*) FROM dead_letter WHERE state = 'dead'"
STATE = "SELECT state FROM operation ORDER BY id DESC LIMIT 1"
BODY = "SELECT convert_from(body, 'UTF8') FROM dead_letter"
RESULT = "SELECT result FROM operation ORDER BY id DESC LIMIT 1"


@pytest.fixture
def site(database_url: str, topology: str, engine: Engine) -> Iterator[Site]:
    settings = Settings(grace_seconds=0)
    with opened(database_url, topology, settings=settings, may_operate=True) as site:
        yield site


def begun(answer: Answer) -> str:
    """The path of the operation to which a form has led."""
    assert answer.status == 303, answer.text
    assert re.fullmatch(r"/operations/\d+", answer.headers["location"])
    return answer.headers["location"]


def selected(site: Site, do: str, *ids: int, **filters: str) -> str:
    fields = [("do", do), *(("id", str(each)) for each in ids), *filters.items()]
    return begun(site.post("/letters/preview", fields))


def edited(site: Site, body: str, button: str, version: str | None = None) -> Answer:
    """What comes of editing letter 1, as it is now or was when it had that version."""
    fields = {"body": body, button: "1", "version": version or version_in(site.html("/letters/1"))}
    return site.post("/letters/1/edit", fields)


def version_in(html: str) -> str:
    (version,) = re.findall(r'name="version" value="(\w+)"', html)
    return str(version)


def test_letters_are_previewed_applied_and_seen_as_applied(site: Site, engine: Engine) -> None:
    """The preview says what changes, and changes nothing."""
    bury(engine, completed(1, 0, "r1"), failed(1, 5, "why"), failed(2, 0, "x"), failed(9, 0, "y"))
    register_branches(engine, 1, 2)
    path = selected(site, "apply-all", reason="unknown-branch")
    document = site.document(f"{path}.json")
    assert document["operation"]["state"] == "previewed"
    assert document["preview"]["outcomes"] == {"applied": 3, "dead": 1}
    assert document["preview"]["branches"] == 2
    (first, second) = document["preview"]["differences"]
    assert (first["id"], first["after"]["mirror_failures"]) == (1, 1)
    assert first["before"]["last_mirrored"] is None
    assert second["after"]["mirror_status_message"] == "x"
    page = site.html(path)
    assert "Apply these 4 letters: 2 branches change." in page
    assert "the branch is not registered" in page or "unknown-branch" in page
    assert rows(engine, DEAD) == [(4,)]
    assert state_of(engine, 1).last_mirrored is None

    assert begun(site.post(f"{path}/start")) == path
    wait_for_rows(engine, STATE, [("done",)])
    assert rows(engine, RESULT) == [({"applied": 3, "dead": 1},)]
    assert state_of(engine, 1).mirror_failures == 1
    page = site.html(path)
    assert "3 applied, 1 still dead" in page
    assert "Left as they were" in page
    assert "somebody at 127.0.0.1" in site.html("/operations")


def test_what_arrives_after_the_preview_is_left_alone(site: Site, engine: Engine) -> None:
    """Exactly the previewed letters are applied; one that was edited since is skipped."""
    bury(engine, failed(1, 0, "a"), failed(1, 1, "b"))
    path = selected(site, "apply-all")
    bury(engine, failed(1, 2, "c"))
    with engine.begin() as connection:
        body = wire.encode(failed(1, 7, "edited"))
        connection.execute(text("UPDATE dead_letter SET body = :body WHERE id = 2"), {"body": body})
    register_branches(engine, 1)
    site.post(f"{path}/start")
    wait_for_rows(engine, STATE, [("done",)])
    assert rows(engine, RESULT) == [({"applied": 1, "skipped": 1},)]
    assert rows(engine, "SELECT id FROM dead_letter WHERE state = 'dead' ORDER BY id") == [
        (2,),
        (3,),
    ]


def test_a_double_click_starts_one_operation(site: Site, engine: Engine) -> None:
    """The second answer is the same as the first."""
    bury(engine, *(failed(1, second, "x") for second in range(20)))
    register_branches(engine, 1)
    path = selected(site, "apply-all")
    with ThreadPoolExecutor(4) as clicks:
        answers = [
            begun(answer) for answer in clicks.map(lambda _: site.post(f"{path}/start"), range(4))
        ]
    wait_for_rows(engine, STATE, [("done",)])
    assert answers == [path] * 4
    assert rows(engine, RESULT) == [({"applied": 20},)]
    assert begun(site.post(f"{path}/start")) == path
    assert rows(engine, STATE) == [("done",)]


def test_what_was_not_done_is_not_logged_as_done(
    site: Site, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A second click, an edit that is only tried, and one that is refused."""
    caplog.set_level(logging.INFO)
    register_branches(engine, 1)
    bury(engine, failed(404, 0, "x"))

    def done() -> list[str]:
        logged = [each for each in caplog.records if each.message == "done from the page"]
        return [getattr(each, "path", "") for each in logged]

    good = wire.encode(failed(1, 0, "x")).decode()
    edited(site, good, "check")
    edited(site, "{}", "save")
    assert done() == []
    path = selected(site, "discard-all")
    for _ in range(2):
        begun(site.post(f"{path}/start", {"note": "why"}))
    wait_for_rows(engine, STATE, [("done",)])
    for ending in ("stop", "go-on"):
        begun(site.post(f"{path}/{ending}"))
    assert done() == ["/letters/preview", f"{path}/start"]


def test_only_the_ticked_letters_are_taken(site: Site, engine: Engine) -> None:
    """And without any, the page says so."""
    bury(engine, *(failed(1, second, "x") for second in range(3)))
    register_branches(engine, 1)
    path = selected(site, "apply-ticked", 1, 3)
    site.post(f"{path}/start")
    wait_for_rows(engine, STATE, [("done",)])
    assert rows(engine, "SELECT id FROM dead_letter WHERE state = 'dead'") == [(2,)]
    answer = site.post("/letters/preview", {"do": "apply-ticked"})
    assert (answer.status, "no letter is ticked" in answer.text) == (409, True)


def test_the_first_letter_alone_then_the_rest(site: Site, engine: Engine) -> None:
    """It waits for the operator, and goes on at the rate that was asked for."""
    bury(engine, *(failed(1, second, "x") for second in range(5)))
    register_branches(engine, 1)
    path = selected(site, "apply-all")
    site.post(f"{path}/start", {"first_alone": "1", "rate": "1000"})
    wait_for_rows(engine, STATE, [("waiting",)])
    assert rows(engine, DEAD) == [(4,)]
    assert "The first letter has had its turn" in site.html(path)
    site.post(f"{path}/go-on")
    wait_for_rows(engine, STATE, [("done",)])
    assert rows(engine, RESULT) == [({"applied": 5},)]


def test_an_operation_can_be_stopped_and_gone_on_with(site: Site, engine: Engine) -> None:
    """What had its turn stays done; the rest is as it was until it goes on."""
    bury(engine, *(failed(1, second, "x") for second in range(30)))
    register_branches(engine, 1)
    path = selected(site, "apply-all")
    site.post(f"{path}/start", {"rate": "4"})
    wait_for(lambda: rows(engine, DEAD) != [(30,)], "the first letter")
    site.post(f"{path}/stop")
    assert rows(engine, STATE) == [("stopped",)]
    (result,) = rows(engine, RESULT)
    (dead,) = rows(engine, DEAD)
    assert result[0]["applied"] + dead[0] == 30
    assert dead[0] > 0
    with engine.begin() as connection:
        connection.execute(text("UPDATE operation SET rate = NULL"))
    site.post(f"{path}/go-on")
    wait_for_rows(engine, STATE, [("done",)])
    assert rows(engine, RESULT) == [({"applied": 30},)]


def test_discarding_wants_a_reason_and_can_be_undone(site: Site, engine: Engine) -> None:
    """The reason is kept with each letter; restoring takes just these letters."""
    bury(engine, failed(1, 0, "x"), failed(2, 0, "x"), failed(3, 0, "x"))
    path = selected(site, "discard-ticked", 1, 2)
    answer = site.post(f"{path}/start", {"note": "  "})
    assert (answer.status, "say why" in answer.text) == (400, True)
    site.post(f"{path}/start", {"note": "sent by a test"})
    wait_for_rows(engine, STATE, [("done",)])
    assert rows(engine, "SELECT state, note FROM dead_letter ORDER BY id") == [
        ("discarded", "sent by a test"),
        ("discarded", "sent by a test"),
        ("dead", None),
    ]
    (command,) = re.findall(r"mirror-replay restore --discarded-at [^<]+", site.html(path))
    assert command
    undone = begun(site.post(f"{path}/undo"))
    site.post(f"{undone}/start")
    wait_for_rows(engine, STATE, [("done",)])
    assert rows(engine, DEAD) == [(3,)]
    assert rows(engine, RESULT) == [({"restored": 2},)]


def test_an_edit_says_at_once_whether_it_would_apply(site: Site, engine: Engine) -> None:
    """What was typed is kept if it would not; what was delivered is kept if it would."""
    register_branches(engine, 1)
    bury(engine, failed(404, 0, "why"))
    assert "&#34;branch_id&#34;: 404" in site.html("/letters/1")
    wrong = '{"type": "mirror.failed", "mine": 1}'
    answer = edited(site, wrong, "check")
    assert answer.status == 409
    assert "The new body could not be applied either" in answer.text
    assert "&#34;mine&#34;: 1" in answer.text
    good = wire.encode(failed(1, 0, "why")).decode()
    answer = edited(site, good, "check")
    assert (answer.status, "This could be applied" in answer.text) == (200, True)
    assert rows(engine, "SELECT original_body FROM dead_letter") == [(None,)]
    answer = edited(site, good.replace(",", ",\r\n"), "save")
    assert (answer.status, answer.headers["location"]) == (303, "/letters/1")
    assert "As delivered" in site.html("/letters/1")
    path = selected(site, "apply-ticked", 1)
    site.post(f"{path}/start")
    wait_for_rows(engine, DEAD, [(0,)])
    assert state_of(engine, 1).mirror_failures == 1


@pytest.mark.parametrize("button", ["save", "check"])
def test_nobody_replaces_an_edit_unseen(site: Site, engine: Engine, button: str) -> None:
    """The second one is told that there is a first, and may replace what is shown then."""
    register_branches(engine, 1)
    bury(engine, failed(404, 0, "why"))
    seen_by_both = version_in(site.html("/letters/1"))
    mine, theirs = (wire.encode(failed(1, 0, who)).decode() for who in ("mine", "theirs"))
    for _ in range(2):  # a second click
        assert edited(site, theirs, "save", seen_by_both).status == 303
    answer = edited(site, mine, button, seen_by_both)
    assert (answer.status, "Somebody has changed the letter" in answer.text) == (409, True)
    draft, _, shown = answer.text.partition("</textarea>")
    assert ("mine" in draft, "theirs" in shown) == (True, True)
    assert rows(engine, BODY) == [(theirs,)]
    assert edited(site, mine, "save", version_in(answer.text)).status == 303
    assert rows(engine, BODY) == [(mine,)]


def test_of_two_who_save_at_once_one_is_told(site: Site, engine: Engine) -> None:
    """Both have seen the same."""
    register_branches(engine, 1)
    bury(engine, failed(404, 0, "why"))
    seen_by_both = version_in(site.html("/letters/1"))
    bodies = [wire.encode(failed(1, 0, who)).decode() for who in ("mine", "theirs")]
    with ThreadPoolExecutor(2) as operators:
        answers = operators.map(lambda body: edited(site, body, "save", seen_by_both), bodies)
        assert sorted(answer.status for answer in answers) == [303, 409]


def test_a_version_tells_nothing_that_is_hidden(site: Site, engine: Engine) -> None:
    """Of bodies that differ only in a secret it is the same."""
    letter = failed(404, 0, "https://u:hunter1@h/")
    bury(engine, letter)
    first = version_in(site.html("/letters/1"))
    with engine.begin() as connection:
        other = {"body": wire.encode(letter).replace(b"hunter1", b"hunter2")}
        connection.execute(text("UPDATE dead_letter SET body = :body"), other)
    assert version_in(site.html("/letters/1")) == first


@pytest.mark.parametrize("path", ACTIONS)
def test_without_operate_no_form_does_anything(
    path: str, database_url: str, topology: str, engine: Engine
) -> None:
    """Whatever is sent; the buttons are there, disabled, and say why."""
    bury(engine, failed(1, 0, "x"))
    before = everything(engine)
    address = path.format(letter_id=1, operation_id=1)
    fields = {"do": "discard-all", "note": "x", "body": "{}", "save": "1", "partitions": "8"}
    fields |= {"source": "x", "first": "1", "last": "1", "decision": "1"}
    with opened(database_url, topology) as site:
        answer = site.post(address, fields)
        assert (answer.status, "only reads" in answer.text) == (403, True)
        assert re.search(r"<button[^>]* disabled>", site.html("/letters/1"))
        assert "it was started without --operate" in site.html("/letters")
    assert everything(engine) == before


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:8070"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "http://localhost:8070"}, True),
        ({"origin": "https://localhost:8070"}, True),
        ({"origin": "http://localhost:8071"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({}, False),
    ],
)
def test_forms_of_other_sites_are_refused(
    site: Site, engine: Engine, headers: dict[str, str], is_taken: bool
) -> None:
    """The browser says where a form comes from."""
    bury(engine, failed(1, 0, "x"))
    kind = {"content-type": "application/x-www-form-urlencoded"}
    answer = site.ask(
        "/letters/preview", method="POST", headers={**headers, **kind}, body=b"do=apply-all"
    )
    assert answer.status == (303 if is_taken else 403)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 400),
        ("application/x-www-form-urlencoded", b"do=apply-all&x=%ff", 400),
        ("application/x-www-form-urlencoded", b"do=" + b"x" * 300_000, 413),
        ("application/x-www-form-urlencoded", b"do=apply-all&" + b"id=1&" * 600, 400),
        ("application/x-www-form-urlencoded", b"do=rebuild-all", 400),
        ("application/x-www-form-urlencoded", b"do=apply-all&reason=nonsense", 400),
        ("application/x-www-form-urlencoded", b"do=apply-ticked&id=x", 400),
    ],
)
def test_bad_forms_are_refused_in_words(site: Site, kind: str, body: bytes, status: int) -> None:
    """Nothing is begun."""
    answer = site.ask(
        "/letters/preview",
        method="POST",
        headers={"sec-fetch-site": "same-origin", "content-type": kind},
        body=body,
    )
    assert (answer.status, "That" in answer.text) == (status, True)


def test_a_form_that_breaks_off_is_no_error_of_ours(shell: Shell, engine: Engine) -> None:
    """Its browser may have been closed: the log says nothing."""
    head = b"POST /audit/accept HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
    head += b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n"
    with shell.running("mirror-consumer", "web", "--port", "0") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])  # type: ignore[index]
        with socket.create_connection(("127.0.0.1", port)) as browser:
            browser.sendall(head)
        with closing(HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)) as viewer:
            viewer.request("GET", "/live")
            assert viewer.getresponse().status == 200
        process.terminate()
        _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert "ERROR" not in log


def test_a_page_and_a_command_see_each_others_operations(
    site: Site, engine: Engine, shell: Shell
) -> None:
    """And the page can stop what the command does."""
    bury(engine, *(failed(1, second, "x") for second in range(40)))
    register_branches(engine, 1)
    shell.run("mirror-replay", "discard", "1", "--note", "a test")
    process = shell.start("mirror-replay", "apply", "--all", "--rate", "4")
    wait_for_rows(engine, STATE, [("running",)])
    (running, discarded) = site.document("/operations.json")["operations"]
    assert (discarded["what"], discarded["said"]) == ("discard 1 letter", "1 discarded")
    assert (running["what"], running["criteria"]) == ("apply 39 letters", "all of them")
    site.post(f"/operations/{running['id']}/stop")
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert "was stopped" in said
    found = json.loads(shell.run("mirror-replay", "operations", "--json").stdout)["operations"]
    assert [each["state"] for each in found] == ["stopped", "done"]
    assert "stopped" in shell.run("mirror-replay", "operations").stdout


def test_what_a_killed_page_had_begun_another_page_ends(
    database_url: str, topology: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each letter is applied once, and the result counts all of them."""
    monkeypatch.setattr(perform, "PIECE", 10)
    bury(engine, *(failed(1, second, "x") for second in range(40)))
    register_branches(engine, 1)
    operation_id = preview(engine, Kind.APPLY, Selection(), "a tester")
    with engine.begin() as connection:
        store.start(connection, operation_id)
        operation = store.claim(connection, "a page that dies", of_partitions=False)
    assert operation is not None
    steps = perform.perform(engine, operation, "a page that dies", threading.Event())
    assert next(steps).letters == 10
    with engine.begin() as connection:  # it has been silent for longer than anybody may be
        connection.execute(text("UPDATE operation SET renewed_at = renewed_at - interval '1 min'"))
    with opened(database_url, topology, may_operate=True):
        wait_for_rows(engine, STATE, [("done",)])
    with pytest.raises(OperationError):
        next(steps)  # it was only frozen
    assert rows(engine, RESULT) == [({"applied": 40},)]
    assert state_of(engine, 1).mirror_failures == 40


def test_two_pages_share_the_work(
    site: Site, database_url: str, topology: str, engine: Engine
) -> None:
    """What is previewed on one may be started on the other, and is done once."""
    bury(engine, *(failed(branch, 0, "x") for branch in (1, 2, 3)))
    register_branches(engine, 1, 2, 3)
    with opened(database_url, topology, may_operate=True) as other:
        for each in (1, 2, 3):
            path = selected(site, "apply-ticked", each)
            for page in (other, site):
                assert begun(page.post(f"{path}/start")) == path
        wait_for_rows(engine, "SELECT DISTINCT state FROM operation", [("done",)])
    assert rows(engine, "SELECT DISTINCT result FROM operation") == [({"applied": 1},)]
    assert state_of(engine, 2).mirror_failures == 1


def test_what_a_killed_command_had_begun_waits_for_an_operator(site: Site, engine: Engine) -> None:
    """The page says so, and goes on with it when it is told to."""
    bury(engine, *(failed(1, second, "x") for second in range(5)))
    register_branches(engine, 1)
    with engine.connect() as connection:
        planned = plan(connection, Selection())
    steps = apply_planned(engine, planned, "jane@vostok", threading.Event(), rate=1)
    next(steps)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE operation SET rate = NULL, renewed_at = renewed_at - interval '1 min'")
        )
    page = site.html("/operations/1")
    assert "interrupted" in page
    assert "has gone without saying how it ended" in page
    site.post("/operations/1/go-on")
    wait_for_rows(engine, STATE, [("done",)])
    assert rows(engine, RESULT) == [({"applied": 5},)]


def test_missing_events_are_accepted_with_a_reason(site: Site, engine: Engine) -> None:
    """Which names who it was; and it can be undone."""
    register_branches(engine, 1)
    source = "/pullers/vostok/1"
    Applier(engine).apply(
        messages(Envelope("1", source, at(1), failed(1, 0, "x").event, 3)),
    )
    fields = {"source": source, "first": "1", "last": "2"}
    assert site.document("/audit.json")["missing_total"] == 2
    assert site.post("/audit/accept", fields).status == 400
    assert site.post("/audit/accept", {**fields, "note": "lost disk"}).status == 303
    document = site.document("/audit.json")
    assert document["missing_total"] == 0
    (decision,) = document["decisions"]
    assert decision["note"] == "lost disk (somebody at 127.0.0.1, on the page)"
    assert site.post("/audit/accept", {**fields, "note": "again", "last": "9"}).status == 409
    undoing = {"decision": str(decision["id"]), "note": "it was found"}
    assert site.post("/audit/undo", undoing).status == 303
    assert site.document("/audit.json")["missing_total"] == 2


def test_the_number_of_partitions_is_changed_from_the_page(
    site: Site, shell: Shell, engine: Engine
) -> None:
    """A worker goes on meanwhile; the page says how far it is."""
    path = begun(site.post("/partitions/preview", {"partitions": "3"}))
    assert "Move from 4 to 3 partitions." in site.html(path)
    site.post(f"{path}/start")
    with shell.running("mirror-consumer", "run"):
        wait_for_rows(engine, STATE, [("done",)])
    assert rows(engine, "SELECT partitions, stage FROM topology") == [(3, "steady")]
    answer = site.post("/partitions/preview", {"partitions": "3"})
    assert (answer.status, "there are 3 partitions already" in answer.text) == (409, True)
    assert site.post("/partitions/preview", {"partitions": "65"}).status == 400


def test_a_preview_does_not_wait_for_a_branch_that_somebody_holds(
    site: Site, engine: Engine
) -> None:
    """It says that these letters could not be tried."""
    bury(engine, failed(1, 0, "x"))
    register_branches(engine, 1)
    with engine.begin() as other:
        other.execute(text("SELECT id FROM branch WHERE id = 1 FOR UPDATE"))
        path = selected(site, "apply-all")
    assert site.document(f"{path}.json")["preview"]["locked"] == 1
    assert "1 letter could not be tried" in site.html(path)


def test_what_came_late_is_marked(site: Site, engine: Engine) -> None:
    """With the letter that told of it."""
    bury(engine, failed(1, 0, "x"))
    register_branches(engine, 1)
    Applier(engine).apply(messages(failed(1, 5, "y")))
    site.post(f"{selected(site, 'apply-all')}/start")
    wait_for_rows(engine, STATE, [("done",)])
    (punctual, late) = site.document("/branches/1.json")["attempts"]
    assert (punctual["late"], late["late"]["id"]) == (None, 1)
    assert "came late: " in site.html("/branches/1")


def test_now_names_what_waits_for_an_operator(site: Site, engine: Engine) -> None:
    """Operations, and scripts that have stopped."""
    bury(engine, failed(1, 0, "x"), failed(1, 1, "x"))
    register_branches(engine, 1)
    site.post(f"{selected(site, 'apply-all')}/start", {"first_alone": "1"})
    wait_for_rows(engine, STATE, [("waiting",)])
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO script_activity (name, hostname, date_started, date_completed)
                SELECT 'gc', 'vostok', began, began
                FROM generate_series(now() - interval '9 h', now() - interval '5 h', '1 h') began
            """)
        )
    document = site.document("/now.json")
    said = [each["sentence"] for each in document["remarks"]]
    assert "Operation 1, to apply 2 letters, waits for you." in said
    assert "1 script is overdue: gc on vostok last began 5 h ago." in said
    assert [each["name"] for each in document["overdue_scripts"]] == ["gc"]
    assert "overdue" in site.html("/scripts")
    assert "usually within" in site.html("/")


def everything(engine: Engine) -> dict[str, list[Any]]:
    return {
        table: rows(engine, f"SELECT * FROM {table} ORDER BY 1")
        for table in ("dead_letter", "branch", "operation", "ledger_decision", "topology")
    }


def test_a_preview_that_nobody_confirms_goes_away(engine: Engine) -> None:
    """After a day, when the next one is made; what was started is kept."""
    bury(engine, failed(1, 0, "x"))
    preview(engine, Kind.DISCARD, Selection(), "a tester")
    begun_id = preview(engine, Kind.DISCARD, Selection(), "a tester")
    with engine.begin() as connection:
        store.start(connection, begun_id, note="x")
        connection.execute(text("UPDATE operation SET created_at = now() - interval '2 days'"))
    preview(engine, Kind.DISCARD, Selection(), "a tester")
    assert rows(engine, "SELECT state FROM operation ORDER BY id") == [
        (State.RUNNING,),
        (State.PREVIEWED,),
    ]
