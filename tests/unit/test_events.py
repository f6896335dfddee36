"""The contract's values: what they accept, and what they say of what they do not."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from mirrorfeed.contract.events import (
    MAX_BRANCH_ID,
    Envelope,
    InvalidEvent,
    MirrorCompleted,
    MirrorFailed,
    MirrorStarted,
    ScriptRun,
)
from tests.builders import START, at


@pytest.mark.parametrize("branch_id", [1, MAX_BRANCH_ID])
def test_branch_ids_reach_from_1_to_the_largest_bigint(branch_id: int) -> None:
    """Both ends of the range are branches."""
    assert MirrorStarted(branch_id, START).partition_key == f"branch:{branch_id}"


@pytest.mark.parametrize("branch_id", [0, -1, MAX_BRANCH_ID + 1, True, 1.0, "1", None])
def test_what_is_no_branch_id_is_refused_by_name(branch_id: Any) -> None:
    """The error names the field and the value."""
    with pytest.raises(InvalidEvent, match=r"branch_id .* got"):
        MirrorStarted(branch_id, START)


def test_a_naive_datetime_is_refused_with_the_remedy() -> None:
    """Without an offset it could be any of 24 instants."""
    with pytest.raises(InvalidEvent, match=r"started_at has no time zone.*tzinfo=datetime\.UTC"):
        MirrorStarted(1, datetime(2026, 1, 1))


def test_an_instant_that_utc_cannot_express_is_refused() -> None:
    """Year 0 and year 10000 have no RFC 3339 form in UTC."""
    east = timezone(timedelta(hours=14))
    with pytest.raises(InvalidEvent, match="outside the years 1 to 9999"):
        MirrorStarted(1, datetime(1, 1, 1, tzinfo=east))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\0b", "NUL"),
        ("a\ud800b", "surrogate"),
        ("x" * 8193, "at most 8192"),
        (b"bytes", "string"),
        (None, "string"),
    ],
)
def test_a_reason_that_cannot_be_stored_is_refused(text: Any, why: str) -> None:
    """What PostgreSQL cannot hold never becomes an event."""
    with pytest.raises(InvalidEvent, match=f"reason .*{why}"):
        MirrorFailed(1, START, text)


def test_lengths_count_characters() -> None:
    """A limit of 1024 means 1024 characters, however many bytes they are."""
    assert MirrorCompleted(1, START, "ö" * 1024).revision_id == "ö" * 1024
    with pytest.raises(InvalidEvent, match="revision_id must be at most 1024"):
        MirrorCompleted(1, START, "ö" * 1025)


def test_a_revision_may_be_unknown() -> None:
    """A branch can be mirrored without anybody knowing up to which revision."""
    assert MirrorCompleted(1, START, None).revision_id is None


def test_a_script_cannot_end_before_it_started() -> None:
    """It may end at the same instant."""
    assert ScriptRun("gc", "vostok", at(5), at(5)).subject == "gc"
    with pytest.raises(InvalidEvent, match="completed_at must not be before started_at"):
        ScriptRun("gc", "vostok", at(5), at(4))


@pytest.mark.parametrize(("name", "hostname"), [("", "vostok"), ("gc", ""), ("x" * 256, "vostok")])
def test_scripts_and_hosts_have_names(name: str, hostname: str) -> None:
    """They have 1 to 255 characters."""
    with pytest.raises(InvalidEvent, match="name must"):
        ScriptRun(name, hostname, at(0), at(1))


def test_a_start_happened_when_its_attempt_started() -> None:
    """`time` and `started_at` of mirror.started are one instant."""
    with pytest.raises(InvalidEvent, match="must equal its started_at"):
        Envelope("id", "/pullers/vostok/x", at(1), MirrorStarted(1, at(0)))


@pytest.mark.parametrize("sequence", [0, -1, 2**63])
def test_sequences_begin_with_1(sequence: int) -> None:
    """The largest is what a bigint holds."""
    with pytest.raises(InvalidEvent, match="sequence must be"):
        Envelope("id", "/pullers/vostok/x", at(0), MirrorStarted(1, at(0)), sequence)


def test_events_are_equal_by_value_across_time_zones() -> None:
    """The offset in which a start is written does not matter."""
    berlin = timezone(timedelta(hours=1))
    assert MirrorStarted(1, datetime(2026, 1, 1, 1, tzinfo=berlin)) == MirrorStarted(
        1, datetime(2026, 1, 1, tzinfo=UTC)
    )
