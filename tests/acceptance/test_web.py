"""`mirror-consumer web`, as people and programs look at it."""

import csv
import io
import json
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from time import monotonic
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.message import read_message
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.dead_letters.edit import edit
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.consumer.operations.preview import preview
from mirrorfeed.consumer.operations.store import Kind
from mirrorfeed.consumer.web.access import Access, networks
from mirrorfeed.consumer.web.app import PAGES
from mirrorfeed.consumer.web.context import Settings
from mirrorfeed.consumer.web.passwords import Users, line_of
from mirrorfeed.consumer.web.reading import page_engine
from mirrorfeed.contract import wire
from mirrorfeed.contract.events import (
    MAX_BRANCH_ID,
    Envelope,
    MirrorCompleted,
    MirrorFailed,
    MirrorStarted,
)
from tests.builders import completed, failed, messages, script_run, started
from tests.commands import Shell
from tests.pages import Site, opened
from tests.servers import publish_events, register_branches, rows, state_of, wait_for

AWAY = "amqp://guest:guest@127.0.0.1:1/%2F"
HOSTILE = "</title><script>alert(1)</script>\x1b[2J\u202e&\"'"
LARGE_BYTES = 10 * 1024 * 1024
ENDS_SECONDS = 5.0


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def about(event: Any, took: float, sequence: int | None = None) -> Envelope:
    """An event of the host vostok, that many seconds after its attempt began."""
    at = event.started_at + timedelta(seconds=took)
    return Envelope(f"id-{at}-{event.branch_id}", "/pullers/vostok/1", at, event, sequence)


def bury(engine: Engine, *bodies: bytes, headers: dict[str, Any] | None = None) -> None:
    Applier(engine).apply([read_message(body, headers=headers or {}) for body in bodies])


@pytest.fixture
def site(database_url: str, topology: str) -> Iterator[Site]:
    """Both servers, set up, and nothing in them; no worker."""
    with opened(database_url, topology) as site:
        yield site


@pytest.fixture
def history(engine: Engine) -> Engine:
    """Five branches: mirrored, failing, stuck, stale, and never attempted."""
    register_branches(engine, 1, 2, 3, 4, 5)
    reason = "warning: slow\nfatal: cannot reach https://ada:hunter2@example.org/\n" + "long " * 100
    Applier(engine).apply(
        messages(
            about(MirrorCompleted(1, ago(600), "rev-0"), 10),
            about(MirrorCompleted(1, ago(60), "rev-1"), 30),
            about(MirrorCompleted(2, ago(7200), "rev-2"), 10),
            about(MirrorFailed(2, ago(100), reason), 10),
            about(MirrorStarted(3, ago(2 * 3600)), 0),
            about(MirrorCompleted(4, ago(9 * 3600), "rev-4"), 1),
        )
    )
    return engine


def test_with_a_worker_all_is_well(shell: Shell, site: Site, engine: Engine, topology: str) -> None:
    """One sentence says so, and when the last event came."""
    register_branches(engine, 1, 2)
    assert "Partition 0 is not ready: no worker consumes it" in site.html("/")
    with shell.running("mirror-consumer", "run"):
        publish_events(topology, about(MirrorCompleted(1, ago(2), "rev-1"), 1, 1))
        wait_for(lambda: state_of(engine, 1).last_mirrored_id == "rev-1", "the event")
        wait_for(lambda: site.document("/now.json")["level"] == "good", "that all is well")
        assert re.search(r"All is well: 2 branches, last event \d+ s ago\.", site.html("/"))
        place = site.document("/branches/1.json")["place"]
        assert (place["waiting"], place["is_subscribed"], place["problem"]) == (0, True, None)

        def worker() -> Any:
            return site.document("/workers.json")["workers"][0]

        wait_for(lambda: worker()["settled"] == 1, "the event in the worker's report")
        assert len(worker()["queues"]) == 4
        assert worker()["name"] in site.html("/workers")


def test_what_needs_attention_comes_first(site: Site, history: Engine) -> None:
    """Stuck, failing and stale branches, in this order; each is counted."""
    now = site.document("/now.json")
    assert [(each["id"], each["label"]) for each in now["attention"]] == [
        (3, "stuck"),
        (2, "failing"),
        (4, "stale"),
    ]
    assert now["branches"] == {
        "total": 5,
        "stuck": 1,
        "failing": 1,
        "never_mirrored": 1,
        "mirroring": 0,
        "mirrored": 2,
        "stale": 2,
        "in_need": 3,
    }
    assert "Of 5 branches, 1 is stuck and 1 is failing." in site.html("/")
    assert sum(each["completed"] for each in now["minutes"]) == 2
    assert sum(each["failed"] for each in now["minutes"]) == 1


def test_a_row_says_what_the_latest_attempts_were_like(site: Site, history: Engine) -> None:
    """Their share of success, how long they took, and when the revision last changed."""
    (mirrored, failing) = site.document("/branches.json?sort=id&name=b")["branches"][:2]
    assert mirrored["success_share"] == 1.0
    assert mirrored["mean_seconds"] == pytest.approx(20)
    assert [each["outcome"] for each in mirrored["attempts"]] == ["completed", "completed"]
    assert mirrored["revision_changed_at"] == mirrored["last_mirrored"]
    assert mirrored["revision_is_older"] is False
    assert failing["success_share"] == 0.5
    assert failing["mirror_failures"] == 1


def test_the_address_says_which_branches(site: Site, history: Engine) -> None:
    """And the links within the page keep what was asked for."""
    assert [each["id"] for each in site.document("/branches.json?state=failing")["branches"]] == [2]
    assert [each["id"] for each in site.document("/branches.json?older=8h")["branches"]] == [
        3,
        5,
        4,
    ]
    found = site.document("/branches.json?host=vostok&sort=name&reverse=1")
    assert [each["id"] for each in found["branches"]] == [4, 3, 2, 1]
    assert found["total"] == 4
    assert "state=failing&amp;sort=name" in site.html("/branches?state=failing")


def test_branches_are_sorted_by_what_their_attempts_say(site: Site, history: Engine) -> None:
    """The page and the CSV are in the same order, and the page says when it was so."""
    lists = {"share": [2, 1, 4, 3, 5], "duration": [1, 2, 4, 3, 5], "changed": [1, 2, 4, 3, 5]}
    for sort, ids in lists.items():
        found = site.document(f"/branches.json?sort={sort}")
        assert [each["id"] for each in found["branches"]] == ids
        assert found["order"]["by"] == sort
        lines = csv.DictReader(io.StringIO(site.ask(f"/branches.csv?sort={sort}").text))
        assert [int(line["id"]) for line in lines] == ids
    assert "In the order of what the latest 14 attempts" in site.html("/branches?sort=share")


def test_an_order_that_is_not_known_yet_is_not_made_up(
    site: Site, history: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says what it waits for."""
    monkeypatch.setattr("tests.pages.Unkept.latest", lambda self: None)
    assert "are being looked up, for this order" in site.html("/branches?sort=share")
    assert site.document("/branches.json?sort=share")["order"]["at"] is None


@pytest.mark.parametrize(
    "query",
    [
        "state=well",
        "older=6",
        "sort=luck",
        "sort=share&after=WyJhIl0=",
        "after=x",
        "after=WyJhIl0=",
        "name=%00",
        "reverse=1&after=W10=",
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(site: Site, query: str) -> None:
    """It is the address that is wrong, not the page."""
    assert "That cannot be asked" in site.html(f"/branches?{query}", expect=400)
    assert site.document(f"/branches.json?{query}", expect=400)["error"]


def test_a_long_list_is_read_a_page_at_a_time(site: Site, engine: Engine) -> None:
    """Each branch comes once, and the number of all of them is told."""
    register_branches(engine, *range(1, 121))
    found: list[int] = []
    query = "?sort=name"
    while query:
        document = site.document(f"/branches.json{query}")
        assert document["total"] == 120
        found += [each["id"] for each in document["branches"]]
        following = document["next"]
        query = following and f"?sort=name&after={quote(following)}"
    assert sorted(found) == list(range(1, 121))
    assert "Next 50" in site.html("/branches?sort=name")


def test_a_branch_shows_each_attempt_and_the_whole_reason(site: Site, history: Engine) -> None:
    """With how long it took and who reported it, but without secrets."""
    html = site.html("/branches/2")
    assert "long long long" in html
    assert "https://***@example.org/" in html
    attempts = site.document("/branches/2.json")["attempts"]
    assert [(each["outcome"], each["hostname"]) for each in attempts] == [
        ("failed", "vostok"),
        ("completed", "vostok"),
    ]
    assert attempts[0]["duration_seconds"] == pytest.approx(10)
    assert "There is no such thing" in site.html("/branches/404", expect=404)
    assert site.ask("/branches/x").status == 400


def test_attempts_go_back_to_the_first(site: Site, engine: Engine) -> None:
    """A page at a time."""
    register_branches(engine, 1)
    Applier(engine).apply(messages(*(completed(1, 10 * n, f"r{n}") for n in range(120))))
    found: list[str] = []
    query = ""
    while query is not None:
        document = site.document(f"/branches/1.json{query}")
        found += [each["revision_id"] for each in document["attempts"]]
        following = document["next"]
        query = following and f"?before={quote(following)}"
    assert found == [f"r{n}" for n in reversed(range(120))]


def test_a_branch_may_have_any_number(site: Site, engine: Engine) -> None:
    """Beyond 2^53, which browsers would round."""
    register_branches(engine, MAX_BRANCH_ID)
    assert f'href="/branches/{MAX_BRANCH_ID}"' in site.html("/branches")
    assert f"branch {MAX_BRANCH_ID}" in site.html(f"/branches/{MAX_BRANCH_ID}")
    assert site.ask(f"/branches/{MAX_BRANCH_ID + 1}").status == 400


def test_what_is_hostile_is_harmless(site: Site, engine: Engine) -> None:
    """Markup, control characters and changes of the direction, in every field."""
    register_branches(engine, 1)
    with engine.begin() as connection:
        connection.execute(text("UPDATE branch SET unique_name = :it, url = :it"), {"it": HOSTILE})
    Applier(engine).apply(
        messages(
            Envelope(
                "1", f"/pullers/{quote(HOSTILE)}/1", ago(5), MirrorFailed(1, ago(9), HOSTILE), 1
            ),
            script_run(HOSTILE, 0, 1, hostname=HOSTILE),
        )
    )
    bury(
        engine,
        HOSTILE.encode(),
        json.dumps(
            {"type": HOSTILE, "source": HOSTILE, "id": HOSTILE, "subject": HOSTILE}
        ).encode(),
        wire.encode(failed(2, 0, HOSTILE)),
        headers={HOSTILE: HOSTILE},
    )
    addresses = ["/", "/branches", "/branches/1", "/letters", "/audit", "/scripts", "/workers"]
    addresses += [f"/letters?by={by}" for by in ("reason", "host", "branch")]
    addresses += [f"/letters/{row.id}" for row in rows(engine, "SELECT id FROM dead_letter")]
    asked = [f"/branches?name={quote(HOSTILE)}", f"/letters?host={quote(HOSTILE)}"]
    for address in addresses + asked:
        html = site.html(address)
        assert "<script>alert" not in html
        assert not set("\x1b\u202e") & set(html), address
    assert "alert(1)" in site.html("/branches/1")
    lines = site.ask("/branches.csv").text
    assert "alert(1)" in lines
    assert not set("\x1b\u202e") & set(lines)


def test_a_letter_is_shown_with_what_to_do(site: Site, engine: Engine) -> None:
    """Its body in lines, its headers, and the commands, for this letter."""
    bury(engine, wire.encode(failed(404, 0, "token=hunter2 why")), headers={"x-from": "somewhere"})
    html = site.html("/letters/1")
    assert "mirror-consumer branches add 404 NAME" in html
    assert "mirror-replay apply 1 --dry-run" in html
    assert "&#34;x-from&#34;: &#34;somewhere&#34;" in html
    assert "hunter2" not in html
    document = site.document("/letters/1.json")["letter"]
    assert "token=***" in document["body"]["text"]
    assert document["body"]["size_bytes"] == document["body"]["shown_bytes"]
    assert "There is no such thing" in site.html("/letters/2", expect=404)


def test_of_a_large_body_the_beginning_is_shown(site: Site, engine: Engine) -> None:
    """With how much there is, and how to get all of it; so are bytes that are no text."""
    bury(engine, "é".encode() * (LARGE_BYTES // 2), b"\xff\x00\x01")
    html = site.html("/letters/1")
    assert len(html) < 1_000_000
    assert "Only the first 65,536 of 10,485,760 bytes are shown" in html
    assert "éé" in html
    other = site.html("/letters/2")
    assert r"\xff\x00\x01" in other
    assert "It is not UTF-8" in other


def test_an_edited_letter_shows_both_bodies(site: Site, engine: Engine) -> None:
    """As it was delivered, and as somebody changed it."""
    register_branches(engine, 1)
    bury(engine, wire.encode(completed(404, 0, "rev-1")))
    edit(engine, 1, wire.encode(completed(1, 0, "rev-1")))
    html = site.html("/letters/1")
    assert html.index("As edited") < html.index("As delivered")
    letter = site.document("/letters/1.json")["letter"]
    assert '"branch_id": 1' in letter["body"]["text"]
    assert '"branch_id": 404' in letter["original_body"]["text"]


def test_letters_are_grouped_and_their_groups_lead_to_them(site: Site, engine: Engine) -> None:
    """By reason and error, by host, or by branch; a command means just those that are listed."""
    bury(engine, *(wire.encode(started(branch, 0)) for branch in range(1, 61)), b"{", b"[")
    groups = site.document("/letters.json")["groups"]
    assert [(each["letters"], each["reason"]) for each in groups] == [
        (60, "unknown-branch"),
        (1, "malformed"),
        (1, "malformed"),
    ]
    first, malformed = groups[0]["first_id"], groups[1]["first_id"]
    like = site.document(f"/letters.json?like={first}")
    assert like["total"] == 60
    assert len(like["letters"]) == 50
    rest = site.document(f"/letters.json?like={first}&before={like['next']}")
    assert len(rest["letters"]) == 10
    (host,) = site.document("/letters.json?by=host&host=vostok")["groups"]
    assert (host["host"], host["letters"]) == ("vostok", 60)
    assert len(site.document("/letters.json?by=branch")["groups"]) == 61
    assert "mirror-replay apply --reason malformed" in site.html("/letters?reason=malformed")
    discard = f"mirror-replay discard {malformed} --note TEXT"
    assert discard in site.html(f"/letters?like={malformed}")
    assert "mirror-replay apply" not in site.html(f"/letters?like={first}")  # too many to name


def test_missing_events_and_silent_hosts_are_told(site: Site, engine: Engine) -> None:
    """Now says so first, and the audit says which."""
    register_branches(engine, 1)
    events = [about(MirrorCompleted(1, ago(60 + n), f"r{n}"), 10, n) for n in (1, 2, 5)]
    Applier(engine).apply(messages(*events))
    with engine.begin() as connection:
        connection.execute(text("UPDATE ledger_arrival SET recorded_at = now() - interval '3 h'"))
        connection.execute(text("UPDATE source SET last_heard_at = now() - interval '3 h'"))
    now = site.document("/now.json")
    assert now["missing_events"] == 2
    assert [each["name"] for each in now["silent_hosts"]] == ["vostok"]
    assert {"2 events are missing.", "1 host has been silent: vostok for 3 h."} <= {
        each["sentence"] for each in now["remarks"]
    }
    (gap,) = site.document("/audit.json")["missing"]
    assert (gap["first"], gap["last"]) == (3, 4)
    assert "silent" in site.html("/audit")


def test_scripts_are_listed(site: Site, engine: Engine) -> None:
    """The last run of each, on each host."""
    runs = [script_run("gc", 0, 5), script_run("gc", 100, 107), script_run("gc", 3, 4, "mir")]
    Applier(engine).apply(messages(*runs))
    scripts = site.document("/scripts.json")["scripts"]
    assert [(each["hostname"], each["duration_seconds"]) for each in scripts] == [
        ("mir", 1.0),
        ("vostok", 7.0),
    ]
    assert "7.0 s" in site.html("/scripts")


def test_all_branches_come_as_csv(site: Site, history: Engine) -> None:
    """Those that were asked for, without secrets, and nothing that a spreadsheet would compute."""
    with history.begin() as connection:
        connection.execute(
            text("UPDATE branch SET unique_name = '=cmd()', url = 'https://u:p@h/' WHERE id = 5")
        )
    answer = site.ask("/branches.csv?sort=id")
    assert answer.headers["content-type"].startswith("text/csv")
    found = list(csv.DictReader(io.StringIO(answer.text)))
    assert [each["id"] for each in found] == ["1", "2", "3", "4", "5"]
    assert found[4]["unique_name"] == "'=cmd()"
    assert found[4]["url"] == "https://***@h/"
    assert found[1]["success_share"] == "0.5"
    assert datetime.fromisoformat(found[0]["last_mirrored"])
    (failing,) = csv.DictReader(io.StringIO(site.ask("/branches.csv?state=failing").text))
    assert failing["mirror_status_message"].startswith("warning: slow\nfatal: ")
    assert site.ask("/branches.csv?state=well").status == 400


@pytest.mark.parametrize(
    "sign", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\n=", " \t="]
)
def test_no_line_of_the_csv_is_a_formula(site: Site, engine: Engine, sign: str) -> None:
    """Whatever stands before it, and in the middle of a text, too."""
    register_branches(engine, 1)
    Applier(engine).apply(messages(about(MirrorFailed(1, ago(9), f"{sign}cmd()\n{sign}x"), 1)))
    (branch,) = csv.DictReader(io.StringIO(site.ask("/branches.csv").text))
    told = [line.strip() for line in branch["mirror_status_message"].split("\n")]
    assert [line[:1] for line in told if line] == ["'", "'"]


def test_each_page_is_there_for_programs(site: Site, history: Engine) -> None:
    """With the time at which it was so."""
    bury(history, b"{")
    preview(history, Kind.APPLY, Selection(), "a tester")
    for path in PAGES:
        address = path.format(branch_id=1, letter_id=1, operation_id=1)
        document = site.document(f"{address}.json")
        assert abs(datetime.fromisoformat(document["at"]) - ago(0)) < timedelta(minutes=1)
        if address != "/now":
            assert f'href="{address}.json"' in site.html(address)


def test_nothing_can_be_written(site: Site, database_url: str, history: Engine) -> None:
    """No page takes anything but GET, and PostgreSQL would refuse what the page wrote."""
    for path in ("/", "/branches.csv", *PAGES):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            headers = {"sec-fetch-site": "same-origin"}
            assert site.ask(path, method=method, headers=headers).status == 405
    engine = page_engine(database_url)
    with engine.connect() as connection, pytest.raises(DBAPIError, match="read-only transaction"):
        connection.execute(text("DELETE FROM branch"))
    engine.dispose()


def test_every_answer_tells_the_browser_to_trust_nothing_else(site: Site) -> None:
    """Pages, documents, styles, and refusals."""
    style = re.search(r'href="(/static/page\.css[^"]*)"', site.html("/"))
    assert style
    for address in ("/", "/now.json", style[1], "/nowhere", "/branches?state=x", "/live"):
        headers = site.ask(address).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert site.ask("/").headers["cache-control"] == "no-store"
    assert "immutable" in site.ask(style[1]).headers["cache-control"]
    assert site.ask("/static/..%2fapp.py").status == 404


def test_the_page_says_that_the_database_is_away_and_comes_back(
    database_url: str, topology: str, engine: Engine
) -> None:
    """Programs hear it, too, as 503."""
    register_branches(engine, 1)
    engine.dispose()
    admin = open_engine(
        make_url(database_url).set(database="postgres").render_as_string(hide_password=False)
    ).execution_options(isolation_level="AUTOCOMMIT")
    name = make_url(database_url).database
    with opened(database_url, topology) as site, admin.connect() as connection:
        assert "1 branch" in site.html("/branches")
        connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
            {"name": name},
        )
        html = site.html("/", expect=503)
        assert "The database is away" in html
        assert "not currently accepting connections" in html
        assert "error" in site.document("/branches.json", expect=503)
        assert site.ask("/live").status == 200
        connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
        assert "1 branch" in site.html("/branches")
        wait_for(lambda: site.document("/now.json")["partitions"] != [], "the workers' side")
    admin.dispose()


def test_the_page_says_that_the_broker_is_away(database_url: str, history: Engine) -> None:
    """Everything else is there."""
    with opened(database_url, AWAY) as site:
        wait_for(lambda: bool(site.document("/now.json")["broker_is_away"]), "the broker's absence")
        html = site.html("/")
        assert "The broker is away: nothing is known of what waits in it." in html
        assert "1 is stuck" in html
        assert "not known" in site.html("/workers")
        assert "guest:guest" not in site.html("/workers")


def test_a_database_without_tables_is_told(topology: str, database_url: str) -> None:
    """It is not away."""
    engine = open_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    engine.dispose()
    with opened(database_url, topology) as site:
        assert "does not exist" in site.html("/", expect=503)


def test_only_who_is_meant_may_call_it(database_url: str, topology: str) -> None:
    """Without users, a name that leads here from elsewhere gets nothing."""
    with opened(database_url, topology, access=Access(names=["page.example.org"])) as site:
        for host in ("localhost", "127.0.0.1:8070", "[::1]:8070", "page.example.org"):
            assert site.ask("/live", headers={"host": host}).status == 200
            assert site.ask("/scripts.json", headers={"host": host}).status == 200
        for host in ("evil.example.org", "localhost.evil.example.org:8070", ""):
            assert site.ask("/scripts.json", headers={"host": host}).status == 421


def test_users_give_a_password(
    database_url: str, topology: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that has only hashes, and is read again when it changes."""
    monkeypatch.setattr("mirrorfeed.consumer.web.access.UNAUTHORISED_SECONDS", 0.0)
    file = tmp_path / "users"
    file.write_text(f"# who\n{line_of('jane', 'correct horse')}\n")
    assert "horse" not in file.read_text()
    jane = {"authorization": "Basic amFuZTpjb3JyZWN0IGhvcnNl"}
    with opened(database_url, topology, access=Access(Users(file))) as site:
        refused = site.ask("/")
        assert (refused.status, refused.headers["www-authenticate"][:5]) == (401, "Basic")
        assert site.ask("/", headers={"authorization": "Basic amFuZTp3cm9uZw=="}).status == 401
        assert site.ask("/", headers={"authorization": "Basic !"}).status == 401
        let_in = site.ask("/", headers={**jane, "host": "page.example.org"})
        assert let_in.status == 200
        assert '<span class="user">jane</span>' in let_in.text
        file.write_text(f"{line_of('lin', 'another')}\n# jane is gone\n")
        assert site.ask("/", headers=jane).status == 401


def test_a_proxy_may_name_the_user(database_url: str, topology: str) -> None:
    """Only from its own address."""
    access = Access(None, "X-Remote-User", networks(["10.0.0.0/8"]))
    with opened(database_url, topology, access=access) as site:
        named = {"x-remote-user": "jane"}
        assert site.ask("/", headers=named).status == 403
        proxied = Site(site.app, host="page.example.org", peer="10.1.2.3")
        assert proxied.ask("/").status == 403
        assert "jane" in proxied.ask("/", headers=named).text


def test_a_name_from_elsewhere_is_no_proxy(database_url: str, topology: str) -> None:
    """A browser on the proxy's host may be led here by another site's name, and send the header."""
    access = Access(None, "X-Remote-User", networks(["127.0.0.1"]), ["page.example.org"])
    with opened(database_url, topology, access=access) as site:
        named = {"x-remote-user": "jane"}
        for host in ("page.example.org", "127.0.0.1:8070"):
            assert site.ask("/", headers={**named, "host": host}).status == 200
        assert site.ask("/", headers={**named, "host": "evil.example.org:8070"}).status == 421


def test_it_lives_below_a_path(database_url: str, topology: str, history: Engine) -> None:
    """Whether the proxy takes the path away or not; every link keeps to it."""
    with opened(database_url, topology, settings=Settings(prefix="/mirrors")) as site:
        for address in ("/", "/branches", "/branches/2", "/letters", "/audit", "/workers"):
            html = site.html(f"/mirrors{address}")
            assert site.ask(address).status == 200
            links = re.findall(r'(?:href|src|action)="([^"]*)"', html)
            own = [link for link in links if not link.startswith("#")]
            assert own
            assert [link for link in own if not link.startswith("/mirrors/")] == []
        assert site.ask("/mirrors/now").headers["location"] == "/mirrors/"
        assert "There is no such page" in site.html("/mirrors/branches/", expect=404)
        assert site.ask("/mirrors/now.json").status == 200


def test_it_ends_in_time_with_viewers_connected(shell: Shell, engine: Engine) -> None:
    """Though some have a connection open, and one never ends its request."""
    with shell.running("mirror-consumer", "web", "--port", "0") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])  # type: ignore[index]
        viewers = [HTTPConnection("127.0.0.1", port) for _ in range(5)]
        for viewer in viewers:
            viewer.request("GET", "/now.json")
            assert json.loads(viewer.getresponse().read())["branches"]["total"] == 0
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(b"GET / HTTP/1.1\r\n")
        began_at = monotonic()
        process.terminate()
        process.wait(timeout=2 * ENDS_SECONDS)
        assert monotonic() - began_at < ENDS_SECONDS
        slow.close()
        for viewer in viewers:
            viewer.close()


def test_systemd_hears_that_it_is_ready(shell: Shell, tmp_path: Any) -> None:
    """Once it has looked; and when it stops."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(30)
        listening.bind(str(tmp_path / "notify"))
        told = Shell({**shell.variables, "NOTIFY_SOCKET": str(tmp_path / "notify")})
        heard = ""
        with told.running("mirror-consumer", "web", "--port", "0"):
            while "READY=1" not in heard:
                heard += listening.recv(4096).decode()
        assert "WATCHDOG=1" in heard
        while "STOPPING=1" not in heard:
            heard += listening.recv(4096).decode()


def test_a_page_that_hangs_is_not_live(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart would help."""
    assert site.ask("/live").text == "live\n"
    monkeypatch.setattr("mirrorfeed.consumer.web.watch.HANGS_SECONDS", -1.0)
    assert site.ask("/live").status == 503


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "0.0.0.0"), "give --users"),
        (("--user-header", "X-User"), "go together"),
        (("--trusted-proxy", "10.0.0.300", "--user-header", "X"), "give an address or a network"),
        (("--users", "/nonexistent"), "cannot be read"),
        (("--path-prefix", "mirrors"), "is no path such as"),
        (("--stale-after", "6"), "cannot be read"),
        (("--host", "192.0.2.1", "--user-header", "X", "--trusted-proxy", "::1"), "cannot listen"),
    ],
)
def test_what_cannot_be_served_is_refused(
    shell: Shell, options: tuple[str, ...], said: str
) -> None:
    """With the remedy."""
    assert said in shell.run("mirror-consumer", "web", *options, expect=2).stderr


def test_a_line_for_a_user_is_printed(shell: Shell, tmp_path: Any) -> None:
    """With a hash, which the page takes for that password and no other."""
    printed = shell.run("mirror-consumer", "web-user", "jane", typed="correct horse\n").stdout
    file = tmp_path / "users"
    file.write_text(printed)
    users = Users(file)
    assert users.are("jane", "correct horse")
    assert users.are("jane", "correct horse")
    assert not users.are("jane", "correct horse ")
    assert not users.are("joan", "correct horse")
    assert (
        "the password is empty"
        in shell.run("mirror-consumer", "web-user", "jane", typed="\n", expect=2).stderr
    )
