"""When scripts last ran, and whether that is recent enough."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.consumer.branches.scripts import Watched, check, last_runs, rhythms
from mirrorfeed.consumer.partitions.canary import canary_names
from mirrorfeed.consumer.partitions.own_runs import MARKER_NAME
from tests.moments import HOUR, MOMENTS, NAMES, NOON, TICK

GC = Watched("vostok", "gc")


def ran(
    engine: Engine, hostname: str, name: str, completed: datetime, took: timedelta = HOUR / 60
) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO script_activity (hostname, name, date_started, date_completed)"
                " VALUES (:hostname, :name, :started, :completed)"
            ),
            {
                "hostname": hostname,
                "name": name,
                "started": completed - took,
                "completed": completed,
            },
        )


def last_started(engine: Engine, name: str | None = None) -> list[tuple[str, str, datetime]]:
    with engine.connect() as connection:
        found = last_runs(connection, name, now=NOON)
    return [(row["name"], row["hostname"], row["date_started"]) for row in found]


def has_run(engine: Engine, now: datetime, script: Watched = GC) -> bool:
    with engine.connect() as connection:
        (sighting,) = check(connection, [script], HOUR, now=now)
    return sighting.has_run


@pytest.mark.parametrize("now", MOMENTS, ids=NAMES)
def test_a_run_that_completed_exactly_then_counts(berlin_engine: Engine, now: datetime) -> None:
    """One that completed a microsecond earlier does not, whatever the local clocks did."""
    completed = now.astimezone(UTC) - HOUR
    ran(berlin_engine, "vostok", "gc", completed - TICK)
    assert not has_run(berlin_engine, now)
    ran(berlin_engine, "vostok", "gc", completed)
    assert has_run(berlin_engine, now)
    assert not has_run(berlin_engine, now.astimezone(UTC) + TICK)


def test_a_long_run_counts_by_its_end(engine: Engine) -> None:
    """A shorter one that started later and completed long ago does not matter."""
    ran(engine, "vostok", "gc", NOON, took=10 * HOUR)
    ran(engine, "vostok", "gc", NOON - 8 * HOUR)
    with engine.connect() as connection:
        (sighting,) = check(connection, [GC], HOUR, now=NOON + HOUR)
    assert sighting.has_run
    assert (sighting.last_seen, sighting.age_seconds) == (NOON, 3600.0)


def test_a_run_of_the_near_future_counts(engine: Engine) -> None:
    """Hosts' clocks may be fast, so its age is 0."""
    ran(engine, "vostok", "gc", NOON)
    with engine.connect() as connection:
        (sighting,) = check(connection, [GC], HOUR, now=NOON - HOUR)
    assert (sighting.has_run, sighting.age_seconds) == (True, 0.0)


def test_only_that_script_on_that_host_counts(engine: Engine) -> None:
    """The results come in the order of the question."""
    ran(engine, "mir", "gc", NOON)
    ran(engine, "vostok", "gc2", NOON)
    watched = [GC, Watched("mir", "gc"), Watched("vostok", "gc2")]
    with engine.connect() as connection:
        sightings = check(connection, watched, HOUR, now=NOON)
    assert [(each.script, each.has_run) for each in sightings] == [
        (GC, False), (Watched("mir", "gc"), True), (Watched("vostok", "gc2"), True)
    ]  # fmt: skip
    assert (sightings[0].last_seen, sightings[0].age_seconds) == (None, None)


def test_a_time_without_a_zone_is_refused(engine: Engine) -> None:
    """It could be any zone's."""
    naive = datetime(2026, 7, 5, 12)
    with engine.connect() as connection:
        with pytest.raises(ValueError, match="has no time zone"):
            check(connection, [GC], HOUR, now=naive)
        with pytest.raises(ValueError, match="has no time zone"):
            last_runs(connection, now=naive)


def test_each_script_has_one_last_run_on_each_host(engine: Engine) -> None:
    """It is the one that started last, listed by name and then by host."""
    assert last_started(engine) == []
    for host in ("mir", "vostok"):
        for name in ("gc", "größe: 大", "a"):
            for hour in range(3):
                ran(engine, host, name, NOON + hour * HOUR, took=HOUR)
    last = NOON + HOUR
    found = last_started(engine)
    assert sorted(found) == sorted(
        (name, host, last) for name in ("gc", "größe: 大", "a") for host in ("mir", "vostok")
    )
    assert last_started(engine, "gc") == [("gc", "mir", last), ("gc", "vostok", last)]
    assert last_started(engine, "g") == []


def test_the_cost_follows_the_scripts_not_their_runs(engine: Engine) -> None:
    """Of 20,000 runs, only a handful of index entries are read."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text(
                "INSERT INTO script_activity (name, hostname, date_started, date_completed)"
                " SELECT 's' || n % 4, 'vostok', t, t FROM generate_series(1, 20000) n,"
                " LATERAL (SELECT CAST(:noon AS timestamptz) + n * interval '1 s' AS t) moment"
            ),
            {"noon": NOON},
        )
        connection.execute(text("VACUUM ANALYZE script_activity"))
    reads = text(
        "SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index"
        " WHERE indrelid = 'script_activity'::regclass"
    )
    with engine.begin() as connection:
        assert len(last_runs(connection, now=NOON)) == 4
        assert connection.scalar(reads) < 100


@pytest.mark.parametrize(
    ("value", "hostname", "name"),
    [("vostok:gc", "vostok", "gc"), ("vostok:gc:daily", "vostok", "gc:daily"), ("a::", "a", ":")],
)
def test_the_first_colon_divides_host_and_script(value: str, hostname: str, name: str) -> None:
    """A script's name may hold others."""
    watched = Watched.parse(value)
    assert (watched.hostname, watched.name) == (hostname, name)
    assert str(watched) == value


@pytest.mark.parametrize("value", ["vostok", ":gc", "vostok:", ":", ""])
def test_what_is_not_host_and_script_is_named(value: str) -> None:
    """The error shows an example of one that is."""
    with pytest.raises(ValueError, match=f"^'{value}' is not HOST:SCRIPT, such as"):
        Watched.parse(value)


@pytest.mark.parametrize("value", ["vostok:\udcff", "x" * 256 + ":gc", "vostok:" + "x" * 256])
def test_names_that_no_run_can_have_are_refused(value: str) -> None:
    """Otherwise they would be reported as missing for ever."""
    with pytest.raises(ValueError, match=r"the (hostname|script's name) "):
        Watched.parse(value)


@pytest.mark.parametrize(
    ("ago", "expected"),
    [
        # Hours since each run began, and whether that is overdue.
        ([1, 2, 3, 4], False),
        ([2, 3, 4, 5], True),
        ([30, 54, 78, 150, 174], False),  # the weekend was the longest pause
        ([115, 139, 163, 235, 259], True),
        ([500, 501, 502], False),  # too few to know
    ],
)
def test_a_script_is_overdue_when_it_pauses_longer_than_ever(
    engine: Engine, ago: list[int], expected: bool
) -> None:
    """By half, and some minutes: between its last ten runs on that host."""
    for hours in ago:
        ran(engine, "vostok", "gc", NOON - hours * HOUR, took=timedelta())
    ran(engine, "mir", "gc", NOON, took=timedelta())
    with engine.connect() as connection:
        (other, found) = rhythms(connection, NOON)
    assert (other.hostname, other.usual_seconds, other.is_overdue) == ("mir", None, False)
    assert found.is_overdue == expected


def test_ten_pauses_are_kept_in_mind(engine: Engine) -> None:
    """What was usual long ago is not usual now."""
    for hours in [2, *range(3, 13), 100]:
        ran(engine, "vostok", "gc", NOON - hours * HOUR, took=timedelta())
    with engine.connect() as connection:
        (found,) = rhythms(connection, NOON)
    assert found.usual_seconds == 3600


@pytest.mark.parametrize("name", [MARKER_NAME, *canary_names(4)])
def test_what_an_operator_had_run_is_never_overdue(engine: Engine, name: str) -> None:
    """A canary, or a marker of a move of partitions, comes when somebody asks for it."""
    for hours in [20, 21, 22, 23]:
        ran(engine, "mirror.events.p0", name, NOON - hours * HOUR, took=timedelta())
    with engine.connect() as connection:
        (found,) = rhythms(connection, NOON)
    assert not found.is_overdue
