"""How the services log, and what they say of an outage."""

import json
import logging
import subprocess
import sys

import pytest

from mirrorfeed.contract import outage
from mirrorfeed.contract.logs import JsonLines, TextLines
from mirrorfeed.contract.outage import Outage
from mirrorfeed.contract.reasons import Reason

SCRIPT = """
import logging, os, sys
from mirrorfeed.contract.logs import log_to_standard_error
status = os.fstat(sys.stderr.fileno())
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
log_to_standard_error()
logging.warning("two\\nlines", extra={"wait": 1})
"""


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"levelname": "WARNING", "msg": message, **fields})
    made.created = 1_183_663_921.25
    return made


def test_a_line_for_people_has_the_time_in_utc_the_level_and_all_fields() -> None:
    """What could be taken for something else is quoted."""
    line = TextLines().format(record("buried", reasons={Reason.INVALID: 2}, user="a b", count=3))
    assert line == (
        '2007-07-05T19:32:01.250Z WARNING buried reasons="invalid: 2" user="a b" count=3'
    )


def test_a_line_for_machines_is_one_document() -> None:
    """In ASCII: nothing from outside can control a terminal."""
    line = JsonLines().format(record("buried", because="\x9b31m日本", names={"a"}))
    assert line.isascii()
    assert json.loads(line) == {
        "time": "2007-07-05T19:32:01.250Z",
        "level": "WARNING",
        "event": "buried",
        "because": "\x9b31m日本",
        "names": "{'a'}",
    }


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_a_traceback_is_kept(formatter: logging.Formatter) -> None:
    """Only bugs have one."""
    try:
        raise RuntimeError("why")
    except RuntimeError:
        made = record("failed", exc_info=sys.exc_info())
    assert "RuntimeError: why" in formatter.format(made)


def test_the_journal_gets_priorities_and_has_the_time_itself() -> None:
    """Each line of an entry has one, or the journal would take it for information."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    assert done.stderr.decode().splitlines() == ["<4>WARNING two", "<4>lines wait=1"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(outage, "monotonic", lambda: now[0])
    return now


def test_an_outage_has_a_beginning_a_heartbeat_and_an_end(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """However often somebody tries."""
    caplog.set_level(logging.INFO)
    subject = Outage(logging.getLogger("test"), "the broker")
    subject.is_over()
    for clock[0] in range(150):
        subject.goes_on("refused")
    subject.is_over()
    subject.is_over()
    assert [(each.getMessage(), getattr(each, "seconds", None)) for each in caplog.records] == [
        ("the broker is away; trying again", None),
        ("the broker is still away", 60),
        ("the broker is still away", 120),
        ("the broker is back", 149),
    ]


def test_a_new_reason_is_told_at_once(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """Once, so that addresses in turn, or reasons without end, fill no log."""
    subject = Outage(logging.getLogger("test"), "the broker")
    for clock[0] in range(50):
        subject.goes_on(("refused", "wrong password")[int(clock[0]) % 2])
    for clock[0] in range(50, 100):
        subject.goes_on(f"reason {clock[0]}")
    told = [(each.__dict__["because"], each.__dict__.get("seconds")) for each in caplog.records]
    assert told == [
        ("refused", None),
        ("wrong password", 1),
        ("reason 50", 50),
        ("reason 51", 51),
        ("reason 52", 52),
    ]
