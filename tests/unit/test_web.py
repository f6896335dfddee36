"""What the page says, and how it shares and draws, without a server."""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from socket import create_connection
from threading import Barrier
from typing import Any

import pytest

from mirrorfeed.consumer.branches.listing import Census
from mirrorfeed.consumer.branches.status import BranchState
from mirrorfeed.consumer.checkup import Seen
from mirrorfeed.consumer.dead_letters.runbook import RUNBOOK
from mirrorfeed.consumer.dead_letters.store import LetterState, Selection
from mirrorfeed.consumer.health import Kind, Problem, Report, WorkerState
from mirrorfeed.consumer.partitions.layout import Layout
from mirrorfeed.consumer.sources.silence import Heard
from mirrorfeed.consumer.web.charts import Bar, chart
from mirrorfeed.consumer.web.pages.letters import commands
from mirrorfeed.consumer.web.rendering import lines, with_code
from mirrorfeed.consumer.web.server import page_server
from mirrorfeed.consumer.web.shared import CHEAP_SECONDS, EFFORT, MOST_SECONDS, Shared
from mirrorfeed.consumer.web.verdict import Facts, Level, remarks
from mirrorfeed.consumer.web.watch import Progress, View
from mirrorfeed.contract import asgi
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.supervision import Supervisor

NOW = datetime(2026, 7, 5, 19, 32, tzinfo=UTC)
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


class Idle:
    """A service of which there is nothing to say."""

    def why_not_live(self) -> str | None:
        return None

    def why_not_ready(self) -> str | None:
        return None


def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `Shared` sees, for a test to move."""
    times = [1000.0]
    monkeypatch.setattr("mirrorfeed.consumer.web.shared.monotonic", lambda: times[0])
    return times


def view(*problems: Problem, broker_is_away: str | None = None, age_seconds: float = 1.0) -> View:
    seen = Seen(Layout(4), [], {}, list(problems), broker_is_away)
    return View(datetime.now(UTC) - timedelta(seconds=age_seconds), seen, None, {}, [])


def said(
    seen: View | None = None,
    stuck: int = 0,
    failing: int = 0,
    stale: int = 0,
    letters: int = 0,
    missing: int = 0,
    overflow: int = 0,
    silent: tuple[Heard, ...] = (),
    mirrored: int = 3214,
) -> list[tuple[Level, str]]:
    states = dict.fromkeys(BranchState, 0)
    states |= {BranchState.STUCK: stuck, BranchState.FAILING: failing}
    states[BranchState.MIRRORED] = mirrored
    facts = Facts(
        now=NOW,
        view=seen or view(),
        census=Census(states, stale, stale),
        letters=letters,
        missing_events=missing,
        reused_events=0,
        overflow=overflow,
        silent=silent,
        last_event_at=NOW - timedelta(seconds=2),
    )
    return [(each.level, each.sentence) for each in remarks(facts)]


def test_if_all_is_well_that_is_all_that_is_said() -> None:
    """With how many branches there are, and when the last event came."""
    assert said() == [(Level.GOOD, "All is well: 3,214 branches, last event 2 s ago.")]
    assert said(mirrored=0) == [(Level.GOOD, "No branch is registered yet.")]


def test_what_stands_still_is_said_first() -> None:
    """Before what is only not ready, and before branches that fail."""
    stalled = Problem(Kind.PROGRESS, "mirror.events.p2", "no worker consumes it")
    unready = Problem(Kind.READY, "the worker on db-1, process 8", "it waits: the broker, for 9 s")
    assert said(view(unready, stalled), failing=41, missing=1) == [
        (Level.BAD, "Partition 2 stands still: no worker consumes it."),
        (Level.BAD, "The worker on db-1, process 8: it waits: the broker, for 9 s."),
        (Level.BAD, "1 event is missing."),
        (Level.WARN, "Of 3,255 branches, 41 are failing."),
    ]


def test_each_thing_that_needs_a_look_has_a_sentence() -> None:
    """Stale branches have one if none is worse."""
    silent = (Heard("mir", NOW, 7200.0), Heard("vostok", NOW, 7100.0))
    assert [sentence for _, sentence in said(stale=17, letters=1, overflow=2, silent=silent)] == [
        "2 messages were neither applied nor kept.",
        "Of 3,214 branches, 17 have had no success for too long.",
        "2 hosts have been silent: mir for 2 h.",
        "1 dead letter waits.",
    ]


def test_an_old_look_is_no_news() -> None:
    """If the page could not look for a while, it does not say that all is well."""
    assert said(view(age_seconds=90)) == [
        (Level.BAD, "Nothing new is known of the workers for 1 min.")
    ]


def test_many_who_ask_at_once_read_once() -> None:
    """And until that is old, others get the same."""
    readings = []
    together = Barrier(8)
    with ThreadPoolExecutor(8) as viewers, ThreadPoolExecutor(1) as threads:
        shared = Shared(threads)

        def read() -> int:
            readings.append(1)
            return len(readings)

        def ask() -> int:
            together.wait()
            return shared.get("key", read, fresh_seconds=60)

        assert [each.result() for each in [viewers.submit(ask) for _ in range(8)]] == [1] * 8
        assert shared.get("other", read, fresh_seconds=60) == 2
        assert shared.get("key", read, fresh_seconds=0) == 3


def test_what_gets_old_is_shown_while_it_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it; but what is cheap is never old."""
    times = clock(monkeypatch)
    with ThreadPoolExecutor(1) as threads:
        cheap, shared = Shared(threads), Shared(threads)
        readings = count(1)

        def read() -> int:
            times[0] += 2 * CHEAP_SECONDS
            return next(readings)

        assert cheap.get("key", lambda: 1, fresh_seconds=2) == 1
        assert shared.get("key", read, fresh_seconds=2) == 1
        times[0] += 3
        assert cheap.get("key", lambda: 2, fresh_seconds=2) == 2
        assert shared.get("key", read, fresh_seconds=2) == 1
        threads.submit(int).result()  # after what was read again
        assert shared.get("key", read, fresh_seconds=2) == 2
        times[0] += 3600
        assert shared.get("key", read, fresh_seconds=2) == 3


@pytest.mark.parametrize(("takes", "kept"), [(0.005, 2.0), (0.1, 0.1 / EFFORT), (9, MOST_SECONDS)])
def test_what_is_expensive_is_kept_longer(
    monkeypatch: pytest.MonkeyPatch, takes: float, kept: float
) -> None:
    """But not because it was slow once, and not for ever."""
    times = clock(monkeypatch)
    with ThreadPoolExecutor(1) as threads:
        shared, readings = Shared(threads), count()

        def read() -> int:
            number = next(readings)
            times[0] += takes if number else 9.0
            return number

        def seen_at(age: float) -> int:
            """What is shown after whoever looked at that age has made it new."""
            times[0] = read_at + age
            shared.get("key", read, fresh_seconds=2)
            threads.submit(int).result()
            return shared.get("key", read, fresh_seconds=2)

        read_at = times[0]
        assert shared.get("key", read, fresh_seconds=2) == 0
        assert seen_at(9.1) == 1
        read_at += 9.1
        assert seen_at(kept - 0.1) == 1
        assert seen_at(kept + 0.1) == 2


def test_who_never_completes_a_head_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a head, or nothing at all, keeps a connection for a while only."""
    monkeypatch.setattr("mirrorfeed.consumer.web.server.HEAD_SECONDS", 1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    server = page_server(app, Supervisor(Idle(), {}))
    with (
        asgi.listener("127.0.0.1", 0, connections=8) as listening,
        ThreadPoolExecutor(1) as threads,
    ):
        serving = threads.submit(server.run, [listening])
        try:
            address = listening.getsockname()
            with create_connection(address, 30) as slow, create_connection(address, 30) as silent:
                slow.sendall(b"GET / HTTP/1.1\r\n")
                viewer = HTTPConnection(*address)
                viewer.request("GET", "/")
                assert viewer.getresponse().status == 204
                viewer.close()
                for each in (slow, silent):
                    with suppress(ConnectionResetError):
                        assert each.recv(1) == b""
        finally:
            server.should_exit = True
            serving.result()


def test_an_error_is_everybodys_own() -> None:
    """It is not kept: the next one asks again."""
    with ThreadPoolExecutor(1) as threads:
        shared = Shared(threads)
        with pytest.raises(ZeroDivisionError):
            shared.get("key", lambda: 1 // 0, fresh_seconds=60)
        assert shared.get("key", lambda: 7, fresh_seconds=60) == 7


def test_rates_are_what_was_settled_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that began anew counts from zero."""
    now = 960.0
    monkeypatch.setattr("mirrorfeed.consumer.web.watch.monotonic", lambda: now)
    progress = Progress()
    for settled, waiting in ((100, 5), (150, 9)):
        workers = [
            WorkerState("a", frozenset(), frozenset(), Report(settled={"p0": settled, "p1": 7})),
            WorkerState("b", frozenset(), frozenset(), Report(settled={"p0": 60 - settled // 3})),
        ]
        progress.note(workers, waiting)
        now += 10
    assert progress.rates() == {"p0": 5.0 + 1.0, "p1": 0.0}
    assert progress.waiting()[-1] == 9
    assert progress.waiting()[0] is None


def test_a_chart_is_drawn_of_bars() -> None:
    """The highest fills the height, what is there at all can be seen, and each says what it is."""
    drawn = chart(
        [Bar([("ok", 0), ("failed", 0)], "none"), Bar([("ok", 999), ("failed", 1)], "<b>")], "l"
    )
    assert re.findall(r'class="(ok|failed)" x="5" y="([-\d.]+)" .*? height="([\d.]+)"', drawn) == [
        ("ok", "4.0", "39.0"),
        ("failed", "2.5", "1.5"),
    ]
    assert "<title>&lt;b&gt;</title>" in drawn
    assert 'aria-label="l"' in drawn
    assert "NaN" not in chart([Bar([("ok", 0)], "")] * 3, "")


def test_text_is_harmless_with_its_lines() -> None:
    """Backquotes make code, line feeds stay, and nothing else means anything."""
    assert lines("a<b>\nc\x1b") == "a&lt;b&gt;\nc\N{REPLACEMENT CHARACTER}"
    assert with_code("<`a<b`>") == "&lt;<code>a&lt;b</code>&gt;"


def test_the_runbook_is_that_of_the_documents() -> None:
    """What the page says about a reason, docs/operations.md says, too."""
    section = OPERATIONS.read_text().partition("### Each reason")[2]
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \| (.*?) \|$", section, re.MULTILINE)
    told, remedy = {}, ""
    for reason, meaning, said_remedy in rows[: len(Reason)]:
        remedy = (
            remedy if said_remedy == "the same" else re.sub(r"\[(.*?)\]\(.*?\)", r"\1", said_remedy)
        )
        told[Reason(reason)] = (meaning, remedy)
    assert told == {reason: (each.meaning, each.remedy) for reason, each in RUNBOOK.items()}
    assert set(RUNBOOK) == set(Reason)


@pytest.mark.parametrize(
    ("selection", "first"),
    [
        (Selection(), "mirror-replay apply --all --dry-run"),
        (
            Selection(reason=Reason.INVALID, branch_id=7),
            "mirror-replay apply --reason invalid --branch 7 --dry-run",
        ),
        (Selection(source="/a b'"), """mirror-replay apply --source '/a b'"'"'' --dry-run"""),
        (Selection(host="mir"), "mirror-replay apply 1 2 --dry-run"),
        (Selection(state=LetterState.DISCARDED), "mirror-replay restore --all"),
    ],
)
def test_a_command_means_what_is_listed(selection: Selection, first: str) -> None:
    """By the options that mirror-replay has, or letter by letter."""
    assert commands(selection, [1, 2])[0] == first


def test_what_no_command_can_select_has_none() -> None:
    """Too many letters to name them all; and what is replayed is done."""
    assert commands(Selection(host="mir"), []) == []
    assert commands(Selection(state=LetterState.REPLAYED), [1]) == []
