"""The page in a real browser: what its script does, and what its policy forbids."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.request import urlopen

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.consumer.apply.batch import Applier
from mirrorfeed.contract.events import MirrorFailed
from tests.builders import envelope, messages
from tests.commands import Shell
from tests.servers import register_branches, wait_for

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

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs pip install playwright, and Debian's chromium"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield opened
        opened.close()


@pytest.fixture
def address(shell: Shell, engine: Engine) -> Iterator[str]:
    """A page over two branches, of which one fails."""
    register_branches(engine, 1, 2)
    fail(engine, REASON)
    with shell.running("mirror-consumer", "web", "--port", "0", "--log-format", "json") as process:
        assert process.stderr is not None
        yield json.loads(process.stderr.readline())["event"].rpartition(" ")[2]


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab whose clock can be put forward; whatever its console says is an error, but that a
    server is away."""
    context = browser.new_context()
    tab = context.new_page()
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.clock.install()
    yield tab
    context.close()
    assert [each for each in said if "ERR_CONNECTION_REFUSED" not in each] == []


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


def test_the_page_fits_a_small_screen(tab: Any, address: str) -> None:
    """Only tables may be moved sideways."""
    tab.set_viewport_size({"width": 360, "height": 800})
    for path in ("", "branches", "branches/1", "letters", "audit", "scripts", "workers"):
        tab.goto(f"{address}{path}")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_what_is_away_is_said_without_losing_the_page(tab: Any, shell: Shell) -> None:
    """The page ends; what was read stays, and is marked as old."""
    with shell.running("mirror-consumer", "web", "--port", "0", "--log-format", "json") as process:
        assert process.stderr is not None
        tab.goto(json.loads(process.stderr.readline())["event"].rpartition(" ")[2])
    tab.clock.run_for(6000)
    tab.get_by_text(
        "This is old, as nothing new can be read: the server does not answer"
    ).wait_for()
    assert tab.locator("h1").is_visible()
