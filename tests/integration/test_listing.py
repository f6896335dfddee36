"""Branches a page at a time say the same as all of them at once."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.branches import survey as surveys
from mirrorfeed.consumer.branches.activity import attempts_by_minute
from mirrorfeed.consumer.branches.listing import (
    Filter,
    Patience,
    Sort,
    census,
    page,
    recent_attempts,
)
from mirrorfeed.consumer.branches.status import BranchState, branch_states
from mirrorfeed.consumer.branches.survey import Ranking, ranked_page, survey
from mirrorfeed.consumer.web.pages.rows import with_attempts
from tests.builders import at, completed, failed, messages, started
from tests.servers import register_branches

NOW = at(10_000)
PATIENCE = Patience(stuck_after=timedelta(hours=1), stale_after=timedelta(hours=2))


@pytest.fixture
def branches(engine: Engine) -> Engine:
    """Sixty branches with all kinds of histories."""
    register_branches(engine, *range(1, 61))
    events = []
    for branch_id in range(1, 55):
        match branch_id % 9:
            case 0:
                events += [started(branch_id, 9000)]
            case 1:
                events += [started(branch_id, 1000 + branch_id)]
            case 2:
                events += [failed(branch_id, 100 * n, "why") for n in range(branch_id % 5 + 1)]
            case 3:
                events += [completed(branch_id, 50, "a"), failed(branch_id, 9000 + branch_id, "b")]
            case 4:
                events += [failed(branch_id, 50, "a"), completed(branch_id, 9000, "b")]
            case 5:
                events += [completed(branch_id, 8000, "a"), started(branch_id, 9900)]
            case _:
                events += [completed(branch_id, 100 * branch_id, "a")]
    Applier(engine).apply(messages(*events))
    with engine.begin() as connection:
        connection.execute(text("UPDATE source SET uri = '/pullers/mir/1' WHERE id = 1"))
    return engine


def walked(engine: Engine, chosen: Filter, sort: Sort, is_reversed: bool) -> list[int]:
    found: list[int] = []
    after = None
    with engine.connect() as connection:
        while following := page(
            connection,
            chosen,
            NOW,
            sort=sort,
            is_reversed=is_reversed,
            after=after,
            limit=7,
            patience=PATIENCE,
        ):
            found += [branch["id"] for branch in following]
            after = following[-1]["place"]
    return found


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("sort", Sort)
def test_page_by_page_each_branch_comes_once(
    branches: Engine, sort: Sort, is_reversed: bool
) -> None:
    """In every order, forwards and backwards."""
    found = walked(branches, Filter(), sort, is_reversed)
    assert sorted(found) == list(range(1, 61))
    other = walked(branches, Filter(), sort, not is_reversed)
    assert found == other[::-1]


@pytest.mark.parametrize("first_look", [5, 1000])
@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("ranking", Ranking)
def test_what_attempts_say_is_an_order(
    branches: Engine,
    ranking: Ranking,
    is_reversed: bool,
    first_look: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Page by page each branch comes once, by what its row says; filters hold, however far down
    the branches are that meet them."""
    monkeypatch.setattr(surveys, "FIRST_LOOK", first_look)
    surveyed = survey(branches)
    assert surveyed is not None

    def ranked(chosen: Filter, after: Sequence[str] | None = None) -> list[dict[str, Any]]:
        return ranked_page(
            connection,
            surveyed,
            ranking,
            chosen,
            NOW,
            is_reversed=is_reversed,
            after=after,
            limit=7,
            patience=PATIENCE,
        )

    with branches.connect() as connection:
        found = after = ranked(Filter())
        while after := ranked(Filter(), after[-1]["place"]):
            found = found + after
        keys = [
            (_rank(ranking, each), each["id"]) for each in with_attempts(connection, found, NOW)
        ]
        assert keys == sorted(keys, reverse=is_reversed)
        assert sorted(each["id"] for each in found) == list(range(1, 61))
        failing = ranked(Filter(states=(BranchState.FAILING,), hostname="mir"))
        ids = [each["id"] for each in found if each["state"] == BranchState.FAILING]
        assert [each["id"] for each in failing] == ids[:7]


def _rank(ranking: Ranking, branch: dict[str, Any]) -> tuple[bool, bool, float]:
    """What comes first is lowest."""
    changed_at = branch["revision_changed_at"]
    value, is_older = {
        Ranking.SHARE: (branch["success_share"], False),
        Ranking.DURATION: (branch["mean_seconds"] and -branch["mean_seconds"], False),
        Ranking.CHANGED: (changed_at and -changed_at.timestamp(), branch["revision_is_older"]),
    }[ranking]
    return value is None, value is not None and is_older, value or 0.0


def test_a_revision_changed_when_the_first_of_the_same_came(branches: Engine) -> None:
    """What was there before a change counts as little as what was mirrored twice."""
    register_branches(branches, 61, 62)
    revisions = {61: "aabbb", 62: "abaaa"}
    Applier(branches).apply(
        messages(
            *(
                completed(branch_id, 100 * number, revision)
                for branch_id, each in revisions.items()
                for number, revision in enumerate(each)
            )
        )
    )
    surveyed = survey(branches)
    assert surveyed is not None
    first = islice(surveyed.following(Ranking.CHANGED, False, None), 2)
    places = {branch_id: float(place[0]) for branch_id, place in first}
    assert places == {61: -at(200).timestamp(), 62: -at(200).timestamp()}


def test_a_place_of_an_earlier_survey_will_do(branches: Engine) -> None:
    """The list goes on after the same values."""
    earlier, later = survey(branches), survey(branches)
    assert earlier is not None
    assert later is not None
    whole = list(earlier.following(Ranking.SHARE, False, None))
    assert list(later.following(Ranking.SHARE, False, whole[9][1])) == whole[10:]
    for wrong in (["x", "1"], ["nan", "1"], ["1"]):
        with pytest.raises(ValueError, match="does not belong to this order"):
            later.following(Ranking.SHARE, False, wrong)


def test_the_order_by_need_is_that_of_status(branches: Engine) -> None:
    """And so is each state."""
    with branches.connect() as connection:
        expected = branch_states(connection, now=NOW, stuck_after=PATIENCE.stuck_after)
        found = page(connection, Filter(), NOW, limit=100, patience=PATIENCE)
    assert [(each["id"], each["state"]) for each in found] == [
        (each["id"], each["state"]) for each in expected
    ]
    assert {each["state"] for each in found} == set(BranchState)


@pytest.mark.parametrize(
    "chosen",
    [
        Filter(states=(BranchState.FAILING,)),
        Filter(states=(BranchState.STUCK, BranchState.MIRRORING)),
        Filter(hostname="mir"),
        Filter(older_than=timedelta(seconds=5000)),
        Filter(states=(BranchState.MIRRORED,), hostname="mir", older_than=timedelta(seconds=6000)),
    ],
)
def test_filters_mean_what_those_of_status_mean(branches: Engine, chosen: Filter) -> None:
    """And the census counts what the pages show."""
    with branches.connect() as connection:
        expected = branch_states(
            connection,
            now=NOW,
            stuck_after=PATIENCE.stuck_after,
            states=chosen.states,
            hostname=chosen.hostname,
            success_older_than=chosen.older_than,
        )
        counted = census(connection, chosen, NOW, patience=PATIENCE)
    assert expected
    assert walked(branches, chosen, Sort.ATTENTION, False) == [each["id"] for each in expected]
    states = chosen.states or tuple(BranchState)
    assert sum(counted.states[state] for state in states) == len(expected)


def test_what_needs_attention_is_stuck_failing_or_stale(branches: Engine) -> None:
    """A branch that was never attempted is not stale."""
    with branches.connect() as connection:
        found = page(connection, Filter(is_in_need=True), NOW, limit=100, patience=PATIENCE)
        counted = census(connection, Filter(), NOW, patience=PATIENCE)
    assert len(found) == counted.in_need
    for each in found:
        assert each["is_stale"] or each["state"] in (BranchState.STUCK, BranchState.FAILING)
        assert each["state"] != BranchState.NEVER_MIRRORED
    stale = [each["id"] for each in found if each["is_stale"]]
    assert len(stale) == counted.stale > 0
    assert walked(branches, Filter(is_stale=True), Sort.ATTENTION, False) == stale


def test_part_of_a_name_is_enough(branches: Engine) -> None:
    """In upper or lower case, and with characters that mean something in a pattern."""
    assert sorted(walked(branches, Filter(name="B1"), Sort.NAME, False)) == [1, *range(10, 20)]
    assert walked(branches, Filter(name="b_"), Sort.NAME, False) == []


def test_a_place_of_another_order_is_refused(branches: Engine) -> None:
    """Instead of leaving out branches."""
    with (
        branches.connect() as connection,
        pytest.raises(ValueError, match="does not belong to this order"),
    ):
        page(connection, Filter(), NOW, sort=Sort.NAME, after=["1", "2"], patience=PATIENCE)


def test_the_latest_attempts_of_each_branch(branches: Engine) -> None:
    """No more than were asked for, with the host."""
    with branches.connect() as connection:
        found = recent_attempts(connection, [3, 60], 1)
    (latest,) = found[3]
    assert (latest["outcome"], latest["hostname"]) == ("failed", "mir")
    assert found[60] == []


def test_attempts_are_counted_by_the_minute_they_started_in(branches: Engine) -> None:
    """The last minute ends now."""
    with branches.connect() as connection:
        minutes = attempts_by_minute(connection, at(9001), minutes=2)
    assert [(each.completed, each.failed, each.unfinished) for each in minutes] == [
        (0, 0, 0),
        (6, 0, 6),
    ]
    assert minutes[1].mean_seconds == 1.0
