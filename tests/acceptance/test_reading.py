"""The commands that read, as operators and monitoring systems run them."""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine, make_url, text

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.ledger import fold
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.contract import environment
from mirrorfeed.contract.events import Envelope
from tests.builders import at, completed, failed, messages, started
from tests.commands import Shell
from tests.servers import register_branches
from tests.terminal import cells, terminal

UNREACHABLE = "postgresql://127.0.0.1:1/x"
NO_BROKER = "amqp://127.0.0.1:1"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


@contextmanager
def database_away(database_url: str) -> Iterator[None]:
    """For the time of the block the database refuses connections and has ended those it had."""
    url = make_url(database_url)
    admin = open_engine(url.set(database="postgres").render_as_string(hide_password=False))
    autocommit = admin.execution_options(isolation_level="AUTOCOMMIT")

    def allow(yes: bool) -> None:
        with autocommit.connect() as connection:
            connection.execute(text(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS {yes}'))

    allow(False)
    try:
        with autocommit.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
                ),
                {"name": url.database},
            )
        yield
    finally:
        allow(True)
        admin.dispose()


def ran(engine: Engine, hostname: str, name: str, seconds_ago: float, took: float = 143) -> None:
    """A run of a script that completed then, by the database's clock."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO script_activity (hostname, name, date_started, date_completed)"
                " SELECT :hostname, :name, ended - make_interval(secs => :took), ended"
                " FROM (SELECT now() - make_interval(secs => :ago) AS ended) run"
            ),
            {"hostname": hostname, "name": name, "took": took, "ago": seconds_ago},
        )


def told(shell: Shell, *arguments: str, expect: int = 0) -> Any:
    return json.loads(shell.run("mirror-consumer", *arguments, "--json", expect=expect).stdout)


def ids(shell: Shell, *arguments: str) -> list[int]:
    return [branch["id"] for branch in told(shell, "status", *arguments)["branches"]]


@pytest.fixture
def shell(database_url: str) -> Shell:
    """Only the database can be reached: reading needs no broker."""
    return Shell({environment.AMQP_URL: NO_BROKER, environment.DATABASE_URL: database_url})


@pytest.fixture
def five_branches(engine: Engine) -> None:
    """In ascending order of id: mirrored, mirroring, never-mirrored, failing, stuck."""
    register_branches(engine, 1, 2, 3, 4, 5)
    now = (datetime.now(UTC) - at(0)).total_seconds()
    hour = timedelta(hours=1).total_seconds()
    Applier(engine).apply(
        messages(
            completed(1, now - 3.5 * hour, "rev-1"),
            started(2, now),
            failed(4, now - hour, "no route\r\n  to host"),
            completed(5, now - 50 * hour, "rev-5"),
            started(5, now - 2 * hour),
        )
    )


@pytest.mark.usefixtures("five_branches")
def test_status_begins_with_what_needs_attention(shell: Shell) -> None:
    """People see that first, programs get the order of the ids, and filters leave others out."""
    branches = told(shell, "status")["branches"]
    assert [branch["id"] for branch in branches] == [1, 2, 3, 4, 5]
    assert branches[0]["last_success_age_seconds"] == pytest.approx(3.5 * 3600, abs=60)
    assert branches[3]["last_success_age_seconds"] is None
    first, *lines, last = shell.run("mirror-consumer", "status").stdout.splitlines()
    assert (
        first
        == last
        == ("5 branches: 1 stuck, 1 failing, 1 never-mirrored, 1 mirroring, 1 mirrored")
    )
    assert [line.split() for line in lines] == [
        ["id", "name", "state", "last", "success", "revision", "failures", "message"],
        ["5", "b5", "stuck", "2", "d", "ago", "rev-5", "0"],
        ["4", "b4", "failing", "never", "1", "no", "route", "to", "host"],
        ["3", "b3", "never-mirrored", "never", "0"],
        ["2", "b2", "mirroring", "never", "0"],
        ["1", "b1", "mirrored", "3", "h", "ago", "rev-1", "0"],
    ]
    assert ids(shell, "--state", "mirrored", "--state", "failing") == [1, 4]
    assert ids(shell, "--older-than", "4h") == [2, 3, 4, 5]
    assert ids(shell, "1", "--state", "failing") == []
    assert ids(shell, "--limit", "2") == [4, 5]
    assert shell.run("mirror-consumer", "status", "--limit", "2").stdout.splitlines()[-2:] == [
        "3 more: see --all, --limit, --state and --older-than",
        last,
    ]


@pytest.mark.usefixtures("five_branches")
def test_history_lists_attempts_with_their_durations(shell: Shell) -> None:
    """The latest comes first; a branch that is not registered gives exit code 1."""
    history = told(shell, "history", "5")
    assert history["id"] == 5
    latest, first = history["attempts"]
    assert (latest["outcome"], latest["finished_at"], latest["duration_seconds"]) == (None,) * 3
    assert (first["outcome"], first["revision_id"]) == ("completed", "rev-5")
    assert first["duration_seconds"] > 0
    assert first["started_at"].endswith("Z")
    heading, newest, *others = shell.run("mirror-consumer", "history", "5").stdout.splitlines()
    assert heading.split() == [
        *("started", "(UTC)", "took", "outcome", "host", "revision", "message")
    ]
    assert newest.split()[2] == "unfinished"
    assert len(others) == 1
    limited = shell.run("mirror-consumer", "history", "5", "--limit", "1")
    assert [line.split() for line in limited.stdout.splitlines()[1:]] == [newest.split()]
    assert "only the latest 1 are shown" in limited.stderr
    assert told(shell, "history", "3") == {"id": 3, "attempts": []}
    assert told(shell, "history", "9", expect=1) == {"id": 9, "attempts": []}
    refused = shell.run("mirror-consumer", "history", "9", expect=1)
    assert "branch 9 is not registered" in refused.stderr


@pytest.mark.parametrize(
    "message",
    [
        "致命的なエラー: " + "リポジトリが存在しません" * 9,
        "💥" * 90,
        "cafe\u0301 " * 40,
        "x" * 8188,
    ],
    ids=["CJK", "emoji", "combining", "long"],
)
def test_a_message_is_cut_to_a_narrow_terminal_and_whole_in_a_pipe(
    shell: Shell, engine: Engine, message: str
) -> None:
    """Wide characters count as two cells, and escape sequences do nothing."""
    register_branches(engine, 1)
    Applier(engine).apply(messages(failed(1, 0, f"\x1b[2J{message}")))
    with terminal(shell, "mirror-consumer", "status", columns=60) as narrow:
        assert narrow.end() == 0
    assert "\x1b[2J" not in narrow.written
    _, heading, row, _ = narrow.written.splitlines()
    assert max(cells(heading), cells(row)) <= 60
    assert re.search(rf"b1 +failing +never +1 +�\[2J{message[:2]}.*… *$", row)
    (line,) = shell.run("mirror-consumer", "status").stdout.splitlines()[2:-1]
    assert line.endswith(f"�[2J{message.strip()}")


@pytest.mark.usefixtures("five_branches")
def test_watch_redraws_until_ctrl_c(shell: Shell, engine: Engine, database_url: str) -> None:
    """While the database is away it keeps the last rows and says that they are stale."""
    command = ("mirror-consumer", "status", "--watch", "0.1", "--state", "stuck")
    with terminal(shell, *command, columns=100) as screen:
        screen.wait_for(r"1 branch: 1 stuck; [^\n]* UTC, every 0\.1 s +\r\n +\r\n.* b5 +stuck")
        with engine.begin() as connection:
            connection.execute(text("UPDATE branch SET unique_name = 'renamed' WHERE id = 5"))
        screen.wait_for(r"1 branch.* renamed +stuck")
        engine.dispose()
        with database_away(database_url):
            screen.wait_for(r"1 branch[^\n]*\r\nSTALE since then: .* renamed +stuck")
        screen.wait_for(r"1 branch[^\n]*\r\n +\r\n.* renamed +stuck")
        screen.process.send_signal(signal.SIGINT)
        assert screen.end() == 0
    assert screen.written.index(ENTER_SCREEN) < screen.written.index(LEAVE_SCREEN)
    assert screen.written.rindex(HIDE_CURSOR) < screen.written.rindex(SHOW_CURSOR)
    assert "Traceback" not in screen.written


def test_watch_shows_what_fits_and_is_put_right_by_sigterm(shell: Shell, engine: Engine) -> None:
    """The most important lines stay visible, and the cursor comes back at the end."""
    register_branches(engine, *range(1, 31))
    with terminal(shell, "mirror-consumer", "status", "--watch", lines=10) as screen:
        screen.wait_for(r"30 branches: 30 never-mirrored.*the first 7; 23 more below.* b7 ")
        screen.process.terminate()
        assert screen.end() == 0
    assert " b8 " not in screen.written
    assert screen.written.rindex(HIDE_CURSOR) < screen.written.rindex(SHOW_CURSOR)


def test_a_terminal_gets_as_many_branches_as_it_has_lines_for(shell: Shell, engine: Engine) -> None:
    """The first line, the last line and all between are in sight; --all scrolls."""
    register_branches(engine, *range(1, 31))
    summary = "30 branches: 30 never-mirrored"
    with terminal(shell, "mirror-consumer", "status", lines=10) as screen:
        assert screen.end() == 0
    lines = screen.written.splitlines()
    assert len(lines) == 9  # and the prompt
    assert (lines[0], lines[-1]) == (summary, summary)
    assert lines[-3].split()[:2] == ["5", "b5"]
    assert lines[-2] == "25 more: see --all, --limit, --state and --older-than"
    with terminal(shell, "mirror-consumer", "status", "--all", lines=10) as screen:
        assert screen.end() == 0
    assert len(screen.written.splitlines()) == 33
    assert len(shell.run("mirror-consumer", "status").stdout.splitlines()) == 33


def test_one_branch_is_a_page_that_can_be_read(shell: Shell, engine: Engine) -> None:
    """By number or by name, on a terminal and in a pipe: nothing of it is cut."""
    register_branches(engine, 7)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE branch SET unique_name = '~jane/main', url = 'https://jane:pw@host/main'")
        )
    reason = f"fatal: cannot read\n{'a reason of many words ' * 20}\nend"
    Applier(engine).apply(messages(completed(7, 0, "rev\n7"), failed(7, 60, reason)))
    page = shell.run("mirror-consumer", "status", "~jane/main").stdout
    assert re.fullmatch(
        r"branch 7, ~jane/main\n"
        r"\n"
        r"state         failing\n"
        r"last success  2026-01-01 00:00:00 UTC, \d+ d ago\n"
        r"revision      rev 7\n"
        r"last attempt  2026-01-01 00:01:00 UTC, \d+ d ago\n"
        r"reported by   vostok\n"
        r"failures      1 since the last success\n"
        r"url           https://\*\*\*@host/main\n"
        r"reason\n"
        r"  fatal: cannot read\n"
        r"(  [\w ]+\n){6,7}"
        r"  end\n",
        page,
    )
    assert max(map(len, page.splitlines())) <= 80
    with terminal(shell, "mirror-consumer", "status", "7", columns=80) as screen:
        assert screen.end() == 0
    assert screen.written.replace("\r\n", "\n") == page
    with terminal(shell, "mirror-consumer", "history", "~jane/main", columns=80) as screen:
        assert screen.end() == 0
    assert " ".join(reason.split()) in " ".join(screen.written.split())
    assert max(map(len, screen.written.splitlines())) <= 80
    assert told(shell, "status", "~jane/main")["branches"][0]["id"] == 7
    assert told(shell, "history", "~jane/main")["id"] == 7
    assert told(shell, "history", "~joe/main", expect=1) == {"id": None, "attempts": []}
    refused = shell.run("mirror-consumer", "status", "~joe/main", expect=1)
    assert "branch '~joe/main' is not registered" in refused.stderr


def test_the_list_of_letters_has_one_line_for_each(shell: Shell, engine: Engine) -> None:
    """On a narrow terminal, too."""
    bury = [failed(400 + each, 0, "why " * 100) for each in range(3)]
    Applier(engine).apply(messages(*bury))
    with terminal(shell, "mirror-replay", "list", columns=80) as screen:
        assert screen.end() == 0
    _, *lines = screen.written.splitlines()
    assert [line.split()[:5] for line in lines] == [
        [str(each + 1), lines[each].split()[1], "s", "unknown-branch", "mirror.failed"]
        for each in range(3)
    ]


def test_what_is_empty_says_so_in_a_sentence(shell: Shell) -> None:
    """There are no headings over nothing."""
    for command, sentence in (
        ("mirror-consumer status", "no branches are registered: see mirror-consumer branches"),
        ("mirror-consumer audit", "no source has sent a numbered event yet"),
        ("mirror-consumer scripts", "no script has run yet"),
        ("mirror-replay list", "no letters"),
        ("mirror-replay list --group", "no letters"),
    ):
        (line,) = shell.run(*command.split()).stdout.splitlines()
        assert line.startswith(sentence)


def test_scripts_shows_the_last_activity_of_each(shell: Shell, engine: Engine) -> None:
    """There is one row for each host; a name that never ran gives exit code 1."""
    ran(engine, "vostok", "branch-puller", 7200)
    ran(engine, "vostok", "branch-puller", 3700)
    ran(engine, "mir", "gc: 大", 90_000)
    first, second = told(shell, "scripts")["scripts"]
    assert (first["name"], first["hostname"]) == ("branch-puller", "vostok")
    assert first["duration_seconds"] == 143.0
    assert first["age_seconds"] == pytest.approx(3700, abs=60)
    assert list(second) == [
        "name", "hostname", "date_started", "date_completed", "duration_seconds", "age_seconds",
    ]  # fmt: skip
    lines = shell.run("mirror-consumer", "scripts").stdout.splitlines()
    assert re.fullmatch(r" branch-puller +vostok +\S+ \S+ +\S+ \S+ +2 min 23 s +1 h ago", lines[1])
    assert "gc: 大" in lines[2]
    assert lines[2].endswith("1 d ago")
    (only,) = told(shell, "scripts", "gc: 大")["scripts"]
    assert only["hostname"] == "mir"
    assert (
        "no run of a script 'gc'" in shell.run("mirror-consumer", "scripts", "gc", expect=1).stderr
    )


def test_check_scripts_is_silent_where_all_is_well(shell: Shell, engine: Engine) -> None:
    """Each script that did not run gets a line that says when it was last seen."""
    ran(engine, "vostok", "branch-puller", 3 * 3600 + 60)
    ran(engine, "mir", "gc:daily", 60)
    recent = shell.run("mirror-consumer", "check-scripts", "60", "mir:gc:daily")
    assert (recent.stdout, recent.stderr) == ("", "")
    shell.run("mirror-consumer", "check-scripts", "200.5", "vostok:branch-puller", "mir:gc:daily")
    missing = shell.run(
        "mirror-consumer", "check-scripts", "60",
        "vostok:branch-puller", "mir:gc:daily", "mir:branch-puller", "mir:branch-puller",
        expect=1,
    )  # fmt: skip
    seen, never = missing.stdout.splitlines()
    assert re.fullmatch(
        r"vostok:branch-puller last seen \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(3 h ago\)", seen
    )
    assert never == "mir:branch-puller never seen"
    assert missing.stderr == ""


def test_check_scripts_tells_programs_about_each(shell: Shell, engine: Engine) -> None:
    """With --json the exit code stays the same."""
    ran(engine, "mir", "gc", 120)
    document = told(shell, "check-scripts", "1", "mir:gc", "mir:other", expect=1)
    assert document["minutes"] == 1.0
    seen, never = document["scripts"]
    assert (seen["hostname"], seen["name"], seen["has_run"]) == ("mir", "gc", False)
    assert seen["last_seen"].endswith("Z")
    assert seen["age_seconds"] == pytest.approx(120, abs=60)
    assert (never["has_run"], never["last_seen"], never["age_seconds"]) == (False, None, None)
    assert told(shell, "check-scripts", "60", "mir:gc")["scripts"][0]["has_run"]


def test_nagios_gets_its_line_and_its_exit_codes(shell: Shell, engine: Engine) -> None:
    """0 is OK, 2 is CRITICAL, and 3 is UNKNOWN when the check itself fails."""
    ran(engine, "mir", "recent", -600)
    ran(engine, "mir", "gc", 60)
    ran(engine, "vostok", "branch-puller", 7300)

    def nagios(expect: int, *arguments: str) -> str:
        result = shell.run(
            "mirror-consumer", "check-scripts", "--nagios", *arguments, expect=expect
        )
        assert result.stderr == ""
        (line,) = result.stdout.splitlines()
        return line

    both = ("vostok:branch-puller", "mir:gc")
    assert nagios(0, "180", *both) == "OK - 2 scripts ran in the last 180 minutes"
    assert re.fullmatch(
        r"CRITICAL - 2 of 3 scripts did not run in the last 1 minute:"
        r" vostok:branch-puller last seen .* UTC \(2 h ago\); mir:a¦b never seen",
        nagios(2, "1", both[0], "mir:a|b", "mir:recent"),
    )
    away = nagios(3, "60", *both, "--database-url", UNREACHABLE)
    assert re.match(r"UNKNOWN - .*refused", away)
    for arguments, says in (
        (("0", "mir:gc"), "MINUTES must be above 0"),
        (("60", "mir"), "'mir' is not HOST:SCRIPT"),
        (("60", "mir:gc", "--bogus"), "--bogus"),
        (("60", "mir:gc", "--json"), "exclude each other"),
    ):
        line = nagios(3, *arguments)
        assert line.startswith("UNKNOWN - ")
        assert says in line


def of_host(hostname: str, event: Envelope) -> Envelope:
    return replace(event, source=f"/pullers/{hostname}/spool")


def test_attempts_say_which_host_reported_them(shell: Shell, engine: Engine) -> None:
    """A branch belongs to the host of its latest attempt."""
    register_branches(engine, 1, 2)
    Applier(engine).apply(
        messages(
            of_host("vostok", failed(1, 0, "why")),
            of_host("mir", completed(1, 10, "rev")),
            of_host("vostok", started(2, 0)),
        )
    )
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO mirror_attempt VALUES (2, '2020-01-01')"))
    attempts = told(shell, "history", "1")["attempts"]
    assert [each["hostname"] for each in attempts] == ["mir", "vostok"]
    assert attempts[0]["source"] == "/pullers/mir/spool"
    assert told(shell, "history", "2")["attempts"][1]["hostname"] is None
    assert ids(shell, "--host", "vostok") == [2]
    assert ids(shell, "--host", "salyut") == []
    assert "vostok" in shell.run("mirror-consumer", "history", "1").stdout
    page = shell.run("mirror-consumer", "status", "1").stdout
    assert re.search(r"^reported by +mir$", page, re.MULTILINE)


def test_a_host_that_is_silent_is_named(shell: Shell, engine: Engine) -> None:
    """However many spools it had; also one that does not number its events, until somebody forgets
    it."""
    register_branches(engine, 1)
    numbered = replace(started(1, 0), sequence=1)
    events = [
        replace(numbered, source="/pullers/vostok/old"),
        of_host("vostok", numbered),
        of_host("mir", numbered),
        replace(started(1, 1), source="urn:other"),
    ]
    Applier(engine).apply(messages(*events))
    fold(engine)
    sources = ("mirror-consumer", "sources", "--silent-after", "2h")
    assert told(shell, "sources", "--silent-after", "2h")["silent"] == []
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE source SET last_heard_at = now() - interval '3 h'
                WHERE uri IN ('/pullers/vostok/old', '/pullers/mir/spool', 'urn:other')
            """)
        )
    assert told(shell, "sources", "--silent-after", "2h", expect=1)["silent"] == [
        "mir",
        "urn:other",
    ]
    assert "2 hosts silent: mir for 3 h, urn:other for 3 h" in shell.run(*sources, expect=1).stderr
    assert told(shell, "sources", "--silent-after", "4h")["silent"] == []
    forget = ("mirror-consumer", "sources", "forget")
    shell.run(*forget, "urn:other", "--note", "it is gone")
    assert "no number above 0" in shell.run(*forget, "urn:other", "--note", "x", expect=1).stderr
    shell.run(*forget, "/pullers/mir/spool", "--note", "it is gone")
    listed = told(shell, "sources", "--silent-after", "2h")["sources"]
    assert [each["source"] for each in listed] == ["/pullers/vostok/old", "/pullers/vostok/spool"]
    Applier(engine).apply(messages(events[3]))
    fold(engine)
    assert told(shell, "sources")["sources"][2]["source"] == "urn:other"


def test_check_branches_says_what_is_not_so(shell: Shell, engine: Engine) -> None:
    """In words, as JSON, and for Nagios with performance data."""
    register_branches(engine, 1, 2, 3, 4)
    Applier(engine).apply(
        messages(started(1, 0), failed(2, 0, "why"), completed(3, 0, "rev"), failed(4, 0, "why"))
    )
    check = ("mirror-consumer", "check-branches")
    assert shell.run(*check, expect=1).stdout == (
        "1 of 4 branches stuck (allowed: 0)\n2 of 4 branches failing (allowed: 0)\n"
    )
    allowed = ("--stuck", "1", "--failing", "2")
    assert shell.run(*check, *allowed).stdout == ""
    assert shell.run(*check, *allowed, "--stale", "1d", expect=1).stdout == (
        "4 of 4 branches without a success for 1d (allowed: 0)\n"
    )
    assert told(shell, "check-branches", *allowed, "--stale", "1d", expect=1) == {
        "branches": 4,
        "stuck": 1,
        "failing": 2,
        "stale": 4,
        "is_well": False,
    }
    assert shell.run(*check, "--nagios", "--stuck", "1", expect=2).stdout == (
        "CRITICAL - of 4 branches: 2 failing | stuck=1;;1;0;4 failing=2;;0;0;4\n"
    )
    assert shell.run(*check, "--nagios", *allowed).stdout == (
        "OK - of 4 branches: as they should be | stuck=1;;1;0;4 failing=2;;2;0;4\n"
    )
    unreachable = ("--database-url", UNREACHABLE)
    assert shell.run(*check, "--nagios", *unreachable, expect=3).stdout.startswith("UNKNOWN - ")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (("check-scripts", "0", "mir:gc"), 2, "MINUTES must be above 0"),
        (("check-scripts", "nan", "mir:gc"), 2, "got nan"),
        (("check-scripts", "60", "mir:gc", "vostok"), 2, "'vostok' is not HOST:SCRIPT"),
        (("check-scripts", "60", "mir:gc", "--database-url", UNREACHABLE), 3, "refused"),
        (("history", "1", "--database-url", UNREACHABLE), 3, "refused"),
        (("history", "0"), 2, "branch_id must be a whole number from 1"),
        (("status", "--older-than", "6 hours"), 2, "the duration '6 hours' cannot be read"),
        (("status", "--state", "broken"), 2, "'broken' is not one of"),
        (("status", "--watch", "--json"), 2, "--watch and --json exclude each other"),
        (("status", "--watch"), 2, "--watch needs a terminal"),
    ],
)
def test_what_cannot_be_answered_says_why(
    shell: Shell, arguments: tuple[str, ...], exit_code: int, says: str
) -> None:
    """Bad usage exits with 2, a missing database with 3, and standard output stays empty."""
    result = shell.run("mirror-consumer", *arguments, expect=exit_code)
    assert says in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
