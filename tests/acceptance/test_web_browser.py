"""The page in a real browser: what its script does, and what its policy forbids."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.consumer.operations.preview import preview
from mirrorfeed.consumer.operations.store import Kind
from mirrorfeed.contract.events import MirrorFailed
from tests.builders import envelope, failed, messages
from tests.commands import Shell
from tests.letters import bury
from tests.servers import (
    register_branches,
    rows,
    state_of,
    wait_for,
    wait_for_rows,
)
from tests.tls_proxy import tls_in_front_of

CHROMIUM = shutil.which("chromium")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
REASON = "fatal: no route to host\n" + "and so on\n" * 60
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
SERIOUS = ("serious", "critical")
PATHS = (
    *("", "branches", "branches/1", "letters", "letters/1", "operations", "operations/1"),
    *("audit", "scripts", "workers"),
)
STATE = "SELECT state FROM operation ORDER BY id DESC LIMIT 1"
DEAD = "SELECT count(*) FROM dead_letter WHERE state = 'dead'"

WHY = "needs pip install playwright axe-playwright-python"
playwright = pytest.importorskip("playwright.sync_api", reason=WHY)
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=WHY)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield opened
        opened.close()


@contextmanager
def serving(shell: Shell, *options: str) -> Iterator[str]:
    """The address of a page."""
    command = ("mirror-consumer", "web", "--port", "0", "--log-format", "json", *options)
    with shell.running(*command) as process:
        yield address_of(process)


def address_of(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    said: str = json.loads(process.stderr.readline())["event"]
    return said.rpartition(" ")[2]


@pytest.fixture
def address(shell: Shell, engine: Engine) -> Iterator[str]:
    """A page that may operate, over two branches, of which one fails."""
    register_branches(engine, 1, 2)
    fail(engine, REASON)
    with serving(shell, "--operate") as address:
        yield address


@pytest.fixture
def tab(browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A tab whose clock can be put forward; whatever its console says is an error, but that a
    server is away. If the test fails, a picture is kept."""
    context = browser.new_context(ignore_https_errors=True)
    tab = context.new_page()
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.clock.install()
    failed = request.session.testsfailed
    yield tab
    if request.session.testsfailed > failed:
        picture = tmp_path / "page.png"
        tab.screenshot(path=picture, full_page=True)
        print(f"the page as it was: {picture}")  # noqa: T201
    context.close()
    expected = ("ERR_CONNECTION_REFUSED", "503 (Service", "403 (Forbidden)", "409 (Conflict)")
    assert [each for each in said if not any(part in each for part in expected)] == []


def fail(engine: Engine, reason: str) -> None:
    event = MirrorFailed(1, datetime.now(UTC) - timedelta(seconds=5), reason)
    Applier(engine).apply(messages(envelope(event, event.started_at + timedelta(seconds=1))))


def wait_for_attempts(address: str, count: int) -> None:
    """Until that is what viewers share."""

    def are_there() -> bool:
        with urlopen(f"{address}branches/1.json") as answer:
            return len(json.load(answer)["attempts"]) == count

    wait_for(are_there, "the attempts")


def look_again(tab: Any) -> None:
    """Lets the page ask for itself, once, and waits until it has the answer."""
    with tab.expect_response(lambda answer: answer.request.resource_type == "fetch") as answered:
        tab.clock.run_for(6000)
    answered.value.finished()


def test_what_has_changed_appears_by_itself(tab: Any, address: str, engine: Engine) -> None:
    """Without a new page: the place and the focus stay."""
    tab.goto(f"{address}branches/1")
    assert tab.locator("#attempts tbody tr").count() == 1
    tab.locator("#letters a, #attempts a, nav a").first.focus()
    fail(engine, "another reason")
    wait_for_attempts(address, 2)
    look_again(tab)
    tab.locator("#attempts tbody tr").nth(1).wait_for()
    assert tab.locator("#attempts").get_by_text("another reason").is_visible()


def test_what_is_open_stays_open(tab: Any, address: str, engine: Engine) -> None:
    """And what was typed stays typed; once it is closed, what is new appears."""
    tab.goto(f"{address}branches/1")
    tab.locator("#attempts summary").click()
    fail(engine, "another reason")
    wait_for_attempts(address, 2)
    look_again(tab)
    assert tab.locator("#attempts details[open] pre").is_visible()
    assert tab.locator("#attempts tbody tr").count() == 1
    tab.locator("#attempts summary").click()
    tab.evaluate("document.activeElement.blur()")
    look_again(tab)
    tab.locator("#attempts tbody tr").nth(1).wait_for()

    tab.goto(f"{address}branches")
    tab.locator("input[name=name]").fill("b1")
    look_again(tab)
    assert tab.locator("input[name=name]").input_value() == "b1"


def test_nothing_that_comes_from_outside_is_run(tab: Any, address: str, engine: Engine) -> None:
    """It is shown as it is."""
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE branch SET unique_name = :it WHERE id = 1"), {"it": HOSTILE}
        )
    fail(engine, HOSTILE)
    for path in ("", "branches", "branches/1"):
        tab.goto(f"{address}{path}")
        assert tab.get_by_text("onerror=document.title").first.is_visible()
        assert "owned" not in tab.title().replace(HOSTILE, "")
        assert tab.locator("main img").count() == 0


def test_the_page_fits_a_small_screen(tab: Any, address: str, engine: Engine) -> None:
    """Only tables may be moved sideways."""
    tab.set_viewport_size({"width": 360, "height": 800})
    bury(engine, failed(9, 0, HOSTILE), failed(9, 1, REASON))
    preview(engine, Kind.APPLY, Selection(), "a tester")
    for path in PATHS:
        tab.goto(f"{address}{path}")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_what_is_away_is_said_without_losing_the_page(tab: Any, shell: Shell) -> None:
    """The page ends; what was read stays, and is marked as old."""
    with serving(shell) as address:
        tab.goto(address)
    tab.clock.run_for(6000)
    tab.get_by_text(
        "This is old, as nothing new can be read: the server does not answer"
    ).wait_for()
    assert tab.locator("h1").is_visible()


def test_letters_are_previewed_applied_and_seen_as_applied(
    tab: Any, address: str, engine: Engine
) -> None:
    """Exactly the letters that were previewed: one that has arrived since is left alone."""
    bury(engine, failed(7, 0, "first"), failed(7, 1, "second"))
    register_branches(engine, 7)
    tab.goto(f"{address}letters")
    tab.get_by_role("button", name="all 2…").first.click()
    tab.get_by_text("Apply these 2 letters: 1 branch changes.").wait_for()
    assert tab.get_by_role("cell", name="second").is_visible()
    bury(engine, failed(8, 0, "third"))
    tab.get_by_role("button", name="Apply", exact=True).click()
    wait_for_rows(engine, STATE, [("done",)])
    look_again(tab)
    tab.get_by_text("2 applied.").wait_for()
    assert rows(engine, DEAD) == [(1,)]
    tab.goto(f"{address}branches/7")
    assert tab.get_by_text("came late").count() == 2


def test_a_confirmation_is_never_dropped(tab: Any, address: str, engine: Engine) -> None:
    """What was ticked stays ticked, what was typed stays typed, while the page asks for itself."""
    bury(engine, failed(7, 0, "first"), failed(7, 1, "second"))
    tab.goto(f"{address}letters")
    tab.locator("#list input[type=checkbox]").first.check()
    tab.locator("h1").click()  # nothing has the focus
    bury(engine, failed(8, 0, "third"))
    look_again(tab)
    assert tab.locator("#list input:checked").count() == 1
    assert tab.locator("#list tbody tr").count() == 2
    tab.get_by_role("button", name="the ticked ones…").nth(1).click()
    tab.get_by_label("Why?").fill("sent by a test")
    tab.locator("h1").click()
    look_again(tab)
    assert tab.get_by_label("Why?").input_value() == "sent by a test"
    tab.get_by_role("button", name="Discard").click()
    wait_for_rows(engine, STATE, [("done",)])
    assert rows(engine, DEAD) == [(2,)]


def test_an_edit_survives_while_the_page_asks_for_itself(
    tab: Any, address: str, engine: Engine
) -> None:
    """And an event that would not apply is not lost either."""
    bury(engine, failed(404, 0, "why"))
    tab.goto(f"{address}letters/1")
    tab.locator("summary").click()
    draft = tab.locator("textarea").input_value()
    assert json.loads(draft)["data"]["branch_id"] == 404
    tab.locator("textarea").fill(draft.replace("404", "405"))
    tab.locator("h1").click()
    look_again(tab)
    assert "405" in tab.locator("textarea").input_value()
    tab.get_by_role("button", name="Would it apply?").click()
    tab.get_by_text("could not be applied either").wait_for()
    tab.locator("textarea").fill(draft.replace("404", "1"))
    tab.get_by_role("button", name="Save").click()
    tab.get_by_role("heading", name="As delivered").wait_for()


def test_all_means_what_the_filter_finds(tab: Any, address: str, engine: Engine) -> None:
    """Not only what one page of the list shows, and nothing beside it."""
    bury(engine, *(failed(7, second, "x") for second in range(60)), failed(8, 0, "other"))
    register_branches(engine, 7, 8)
    tab.goto(f"{address}letters?branch=7")
    assert tab.locator("#list tbody tr").count() == 50
    tab.get_by_role("button", name="all 60 that match…").first.click()
    tab.get_by_text("Apply these 60 letters").wait_for()
    tab.get_by_role("button", name="Apply", exact=True).click()
    wait_for_rows(engine, STATE, [("done",)])
    assert rows(engine, "SELECT branch_id FROM dead_letter WHERE state = 'dead'") == [(8,)]


def test_a_page_that_is_killed_goes_on_where_it_was(tab: Any, shell: Shell, engine: Engine) -> None:
    """The next one applies the rest, and each letter once."""
    bury(engine, *(failed(7, second, "x") for second in range(40)))
    register_branches(engine, 7)
    options = ("mirror-consumer", "web", "--operate", "--port", "0", "--log-format", "json")
    first = shell.start(*options)
    try:
        tab.goto(f"{address_of(first)}letters")
        tab.get_by_role("button", name="all 40…").first.click()
        tab.get_by_label("at most").fill("8")
        tab.get_by_role("button", name="Apply", exact=True).click()
        wait_for(lambda: rows(engine, DEAD)[0][0] < 40, "the first letters")
    finally:
        first.kill()
        first.communicate()
    assert 0 < rows(engine, DEAD)[0][0] < 40
    assert rows(engine, STATE) == [("running",)]
    with engine.begin() as connection:  # as if the first one had been silent for long
        connection.execute(text("UPDATE operation SET rate = NULL, renewed_at = '2026-01-01'"))
    with serving(shell, "--operate") as address:
        wait_for_rows(engine, STATE, [("done",)])
        tab.goto(f"{address}operations/1")
        tab.get_by_text("40 applied.").wait_for()
    assert state_of(engine, 7).mirror_failures == 40


def test_it_works_behind_a_proxy_with_tls_below_a_path(
    tab: Any, shell: Shell, engine: Engine
) -> None:
    """Links and forms keep to the path."""
    bury(engine, failed(7, 0, "x"))
    register_branches(engine, 7)
    with (
        serving(shell, "--operate", "--path-prefix", "/mirrors") as address,
        tls_in_front_of(urlsplit(address).port or 0) as port,
    ):
        tab.goto(f"https://localhost:{port}/mirrors/")
        tab.get_by_role("link", name="Letters", exact=True).click()
        tab.get_by_role("button", name="the letter…").first.click()
        tab.get_by_role("button", name="Apply", exact=True).click()
        assert tab.url == f"https://localhost:{port}/mirrors/operations/1"
        wait_for_rows(engine, STATE, [("done",)])


def test_another_site_can_send_no_form(tab: Any, address: str, engine: Engine) -> None:
    """Though the browser would carry whatever lets its user in."""
    bury(engine, failed(7, 0, "x"))
    elsewhere = address.replace("127.0.0.1", "localhost")
    tab.route(
        "http://other.example/",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f"<form method=post action={elsewhere}letters/preview>"
            "<input name=do value=apply-all><button>go</button></form>",
        ),
    )
    tab.goto("http://other.example/")
    tab.get_by_role("button").click()
    tab.get_by_text("another site may not send forms to this one").wait_for()
    assert rows(engine, "SELECT count(*) FROM operation") == [(0,)]


def test_a_branch_beyond_what_a_browser_can_count(tab: Any, address: str, engine: Engine) -> None:
    """Its number is text to the page's script."""
    branch_id = 2**53 + 1
    bury(engine, failed(branch_id, 0, "x"))
    register_branches(engine, branch_id)
    tab.goto(f"{address}letters?branch={branch_id}")
    tab.get_by_role("button", name="the letter that match…").or_(
        tab.get_by_role("button", name="the letter…")
    ).first.click()
    tab.get_by_role("link", name=f"b{branch_id}").click()
    assert tab.url.endswith(f"/branches/{branch_id}")


def test_a_screen_reader_finds_nothing_serious(tab: Any, address: str, engine: Engine) -> None:
    """By the rules of axe-core, in light and dark."""
    rules = axe.Axe()
    bury(engine, failed(9, 0, "x"), failed(9, 1, "y"))
    preview(engine, Kind.DISCARD, Selection(), "a tester")
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        for path in PATHS:
            tab.goto(f"{address}{path}")
            found = rules.run(tab).response["violations"]
            assert [
                (each["id"], each["nodes"][0]["html"])
                for each in found
                if each["impact"] in SERIOUS
            ] == [], path
