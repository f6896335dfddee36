"""What operators type and what they see."""

import io
from datetime import datetime, timedelta, timezone

import pytest
from rich.console import Console

from mirrorfeed.consumer.commands.nagios import Level, line
from mirrorfeed.consumer.commands.output import (
    exact_span,
    shown_cell,
    terminal_table,
    whole_lines,
)
from mirrorfeed.consumer.commands.status import with_watch_seconds
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.printing import printable
from tests.terminal import cells

MESSAGES = [
    "致命的なエラー: リポジトリが存在しません" * 4,
    "💥🔥 no space left on device 💥🔥" * 4,
    "cafe\u0301 nai\u0308ve re\u0301sume\u0301 " * 8,
    "plain " * 30,
    "short",
]


def shown_on_terminal(width: int, *rows: tuple[object, ...]) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    headings = ("id", "name", "message")
    with console.capture() as capture:
        console.print(terminal_table(headings, rows, shorten=("name", "message")))
    return capture.get().splitlines()


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("width", [20, 40, 59, 60])
def test_a_row_keeps_to_one_line_of_the_terminal(width: int, message: str) -> None:
    """That includes wide and combining characters; cut text ends with an ellipsis."""
    heading, line = shown_on_terminal(width, (17, "~jane/project", message))
    assert cells(heading) <= width
    assert cells(line) <= width
    assert " 17 " in line
    assert message.strip()[0] in line
    assert line.rstrip().endswith("…") or message.strip() in line


def test_a_pipe_gets_whole_lines() -> None:
    """Each row is one line of any length, aligned by the width of its characters on a screen."""
    long = "x" * 5000
    heading, first, second = whole_lines(
        ("id", "name", "message"), [(1, "大きい", long), (2, "small", None)]
    )
    assert heading == " id  name    message"
    assert first == f" 1   大きい  {long}"
    assert second == " 2   small"


def test_nothing_from_a_puller_commands_the_terminal() -> None:
    """Escape sequences and changes of writing direction are replaced, white space by spaces."""
    hostile = "\x1b]0;owned\x07\x9b2J\u202e\r\n\tnon\xa0breaking"
    (line,) = list(whole_lines(("message",), [(hostile,)]))[1:]
    assert line == " �]0;owned��2J�   non breaking"
    assert all(each.isprintable() for each in line)
    assert printable("größe 大 💥 e\u0301") == "größe 大 💥 e\u0301"


def test_instants_are_shown_in_utc() -> None:
    """The zone of the connection does not matter."""
    instant = datetime(2026, 7, 5, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert shown_cell(instant) == "2026-07-04 23:30:00 UTC"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("6h", 21_600), ("2d", 172_800), ("0s", 0)]
)
def test_a_duration_is_a_number_and_its_unit(text: str, seconds: int) -> None:
    """Units are seconds, minutes, hours, and days of 24 hours."""
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "6", "h", "6 h", "-6h", "1.5h", "6w", "6H", "٣h", "99999d"])
def test_any_other_duration_is_named(text: str) -> None:
    """The error shows what one looks like."""
    with pytest.raises(ValueError, match="cannot be read: give a whole number") as said:
        duration(text)
    assert repr(text) in str(said.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (143, "2 min 23 s"),
        (3599.7, "1 h 0 min"),
        (86_399, "23 h 59 min"),
        (200_000, "2 d 7 h"),
        (-5, "-5.0 s"),
        (-5000, "-5000.0 s"),
    ],
)
def test_a_duration_is_told_by_its_two_largest_units(seconds: float, text: str) -> None:
    """Rounding carries into the next unit; negative ones, which are errors, stay in seconds."""
    assert exact_span(seconds) == text


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("--watch", "--watch 2"),
        ("17 --watch", "17 --watch 2"),
        ("--watch 5", "--watch 5"),
        ("--watch 0.5 --state stuck", "--watch 0.5 --state stuck"),
        ("--watch --state stuck", "--watch 2 --state stuck"),
        ("--watch=5", "--watch=5"),
        ("--json", "--json"),
        ("", ""),
    ],
)
def test_watch_stands_with_or_without_its_number(typed: str, means: str) -> None:
    """Without a number it means 2 seconds."""
    assert with_watch_seconds(typed.split()) == means.split()


def test_nagios_gets_one_line_without_performance_data() -> None:
    """A pipe sign in a name would otherwise begin some."""
    assert line(Level.CRITICAL, "vostok:a|b\nnever seen\x1b", {}) == (
        "CRITICAL - vostok:a¦b never seen�"
    )
