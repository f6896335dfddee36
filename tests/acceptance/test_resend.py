"""What a database lost after the broker had confirmed it is sent again."""

import json
import os
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url

from mirrorfeed.consumer.database import open_engine
from mirrorfeed.contract import environment
from mirrorfeed.publisher.kept import FOLDER, HEADER, KeptEvents, kept_events
from mirrorfeed.publisher.spool import SpooledEvent
from mirrorfeed.publisher.spool_access import beside
from tests.commands import Shell
from tests.servers import new_database, register_branches, state_of

DAY = 86_400.0


def report(shell: Shell, *reasons: str) -> None:
    for reason in reasons:
        shell.run("mirror-publisher", "failed", "1", reason)
    shell.run("mirror-publisher", "forward", "--drain")
    shell.run("mirror-consumer", "run", "--drain")


def missing(shell: Shell, exit_code: int) -> list[list[int]]:
    audit = shell.run("mirror-consumer", "audit", "--json", expect=exit_code).stdout
    (source,) = json.loads(audit)["sources"]
    found: list[list[int]] = source["missing"]
    return found


def test_a_database_restored_from_a_backup_gets_what_it_has_lost(
    engine: Engine, shell: Shell, database_url: str
) -> None:
    """The audit names it, resend fills it, and the audit is clean."""
    register_branches(engine, 1)
    report(shell, "before")
    engine.dispose()
    with new_database(make_url(database_url), template=make_url(database_url).database) as backup:
        report(shell, "lost", "lost too")
        restored = Shell(
            {
                **shell.variables,
                environment.DATABASE_URL: backup.render_as_string(hide_password=False),
            }
        )
        report(restored, "after")
        assert missing(restored, 1) == [[2, 3]]
        said = restored.run("mirror-publisher", "resend", "--since", "1h").stdout
        assert said == "events to send again: 4\n"
        report(restored)
        assert missing(restored, 0) == []
        status = json.loads(restored.run("mirror-publisher", "status", "--json").stdout)
        assert (status["spooled"], status["confirmed"], status["pending"]) == (4, 4, 0)
        restored_engine = open_engine(backup.render_as_string(hide_password=False))
        assert state_of(restored_engine, 1).mirror_failures == 4
        restored_engine.dispose()


def test_only_the_chosen_events_are_sent_again(shell: Shell, engine: Engine) -> None:
    """By number, and only what is kept and does not wait already."""
    register_branches(engine, 1)
    report(shell, "one", "two", "three")
    assert "again: 2" in shell.run("mirror-publisher", "resend", "2", "3").stdout
    refused = shell.run("mirror-publisher", "resend", "2", "3", expect=1).stderr
    assert "keeps no such events that are not pending" in refused
    usage = shell.run("mirror-publisher", "resend", "2", expect=2).stderr
    assert "give the numbers FROM and TO, or --since" in usage
    report(shell)
    assert state_of(engine, 1).mirror_failures == 3


def events(*numbers: int, size: int = 10) -> list[SpooledEvent]:
    return [SpooledEvent(each, str(each), "x", "k", b"x" * size) for each in numbers]


def sequences(path: Path) -> list[int]:
    return [kept.sequence for kept in kept_events(path)]


def test_what_is_too_old_or_too_much_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file at a time, the oldest first."""
    monkeypatch.setattr("mirrorfeed.publisher.kept.FILE_BYTES", 1000)
    path = tmp_path / "spool.db"
    kept = KeptEvents(path, keep_seconds=DAY, limit_bytes=4000)
    for number in range(10):
        kept.add(events(number, size=1000))
    assert sequences(path) == [7, 8, 9]
    for file in beside(path, FOLDER).iterdir():
        os.utime(file, (0, time.time() - DAY - 1))
    kept.add(events(10))
    assert sequences(path) == [10]
    kept.close()


def test_a_record_that_a_power_cut_left_half_written_is_passed_over(tmp_path: Path) -> None:
    """What was written before and after it is read."""
    path = tmp_path / "spool.db"
    for number in (1, 2):
        kept = KeptEvents(path, keep_seconds=DAY, limit_bytes=10**9)
        kept.add(events(number, number + 10))
        kept.close()
    first, _ = sorted(beside(path, FOLDER).iterdir())
    os.truncate(first, first.stat().st_size - 1)
    assert sequences(path) == [1, 2, 12]


def test_zeros_that_a_power_cut_left_are_passed_over(tmp_path: Path) -> None:
    """A file may have got its size, and not its end, or the beginning of a record."""
    path = tmp_path / "spool.db"
    for number in (1, 2, 3):
        kept = KeptEvents(path, keep_seconds=DAY, limit_bytes=10**9)
        kept.add(events(number, number + 10))
        kept.close()
    end_is_missing, beginning_is_missing, _ = sorted(beside(path, FOLDER).iterdir())
    os.truncate(end_is_missing, end_is_missing.stat().st_size + 4096)
    with beginning_is_missing.open("r+b") as file:
        file.write(bytes(HEADER.size - 5))
    assert sequences(path) == [1, 11, 3, 13]


def test_a_file_that_is_forgotten_meanwhile_is_passed_over(tmp_path: Path) -> None:
    """A forwarder deletes what is too old while its events are read."""
    path = tmp_path / "spool.db"
    for number in (1, 2):
        kept = KeptEvents(path, keep_seconds=DAY, limit_bytes=10**9)
        kept.add(events(number))
        kept.close()
    reading = kept_events(path)
    assert next(reading).sequence == 1
    for file in beside(path, FOLDER).iterdir():
        file.unlink()
    assert list(reading) == []


def test_a_damaged_event_keeps_no_other_from_being_sent_again(shell: Shell, engine: Engine) -> None:
    """Neither the zeros in it nor those behind the last one end the command."""
    register_branches(engine, 1)
    report(shell, "one", "two", "three")
    (file, *_) = sorted(beside(Path(shell.variables[environment.SPOOL]), FOLDER).iterdir())
    damaged = bytearray(file.read_bytes())
    damaged[HEADER.size + 100 : HEADER.size + 200] = bytes(100)
    file.write_bytes(damaged + bytes(4096))
    assert "again: 2" in shell.run("mirror-publisher", "resend", "--since", "1h").stdout


def test_nothing_is_kept_if_not_asked_for(tmp_path: Path) -> None:
    """Not even a folder."""
    path = tmp_path / "spool.db"
    KeptEvents(path, keep_seconds=0, limit_bytes=10**9).add(events(1))
    assert list(tmp_path.iterdir()) == []
