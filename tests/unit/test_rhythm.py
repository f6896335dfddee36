"""How soon a session looks at the spool again."""

from itertools import pairwise

from mirrorfeed.publisher.forward.rhythm import (
    AWAKE_SECONDS,
    POLL_SECONDS,
    REST_SECONDS,
    Rhythm,
)


def pauses(rhythm: Rhythm, begin: float, end: float, *, may_rest: bool = True) -> list[float]:
    """Of the looks in this time, of which none finds anything."""
    found: list[float] = []
    now = begin
    while now < end:
        found.append(rhythm.looked(now, has_found=False, may_rest=may_rest))
        now += found[-1]
    return found


def test_it_rests_once_nothing_has_happened_for_a_while() -> None:
    """Until then it looks as often as ever, because a commit may be under way."""
    rhythm = Rhythm(0.0)
    assert set(pauses(rhythm, 0.0, AWAKE_SECONDS - POLL_SECONDS)) == {POLL_SECONDS}
    assert set(pauses(rhythm, AWAKE_SECONDS, AWAKE_SECONDS + 60)) == {REST_SECONDS}


def test_it_does_not_rest_if_nobody_would_tell() -> None:
    """Without a watch nothing is different from before there were any."""
    rhythm = Rhythm(0.0)
    assert set(pauses(rhythm, 0.0, 60.0, may_rest=False)) == {POLL_SECONDS}


def test_it_rests_again_only_when_what_it_found_is_long_ago() -> None:
    """Events seldom come alone."""
    rhythm = Rhythm(0.0)
    assert rhythm.looked(60.0, has_found=True, may_rest=True) == POLL_SECONDS
    assert set(pauses(rhythm, 60.1, 60.0 + AWAKE_SECONDS - 0.1)) == {POLL_SECONDS}
    assert rhythm.looked(61.0 + AWAKE_SECONDS, has_found=False, may_rest=True) == REST_SECONDS


def test_what_is_being_written_is_looked_for_at_once_and_then_less_and_less_often() -> None:
    """It can be read when the disk has it. No look is later than twice as long as that takes."""
    rhythm = Rhythm(0.0)
    first = rhythm.written(60.0)
    later = pauses(rhythm, 60.0 + first, 60.0 + AWAKE_SECONDS - 0.1)
    assert first < POLL_SECONDS / 10
    assert all(pause <= 2 * before for before, pause in pairwise([first, *later]))
    assert later[-1] == POLL_SECONDS


def test_once_it_has_found_what_was_written_it_is_not_in_haste() -> None:
    """A spool that others keep writing to is not looked at all the time."""
    rhythm = Rhythm(0.0)
    rhythm.written(60.0)
    assert rhythm.is_in_haste
    assert rhythm.looked(60.1, has_found=True, may_rest=True) == POLL_SECONDS
    assert not rhythm.is_in_haste
