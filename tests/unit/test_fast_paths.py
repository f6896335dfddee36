"""When private names of pika are used."""

import logging
from collections.abc import Iterator

import pika
import pytest

from mirrorfeed.amqp import fast_paths


@pytest.fixture(autouse=True)
def first_question(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has not asked yet."""
    monkeypatch.delenv(fast_paths.SWITCH, raising=False)
    fast_paths.are_used.cache_clear()
    yield
    fast_paths.are_used.cache_clear()


def test_this_version_is_a_compared_one() -> None:
    """Else all other tests would compare pika with itself."""
    assert fast_paths.are_used()


def test_any_other_version_is_used_in_its_own_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says so, however often it is asked."""
    monkeypatch.setattr(pika, "__version__", "1.4.99")
    with caplog.at_level(logging.INFO):
        assert [fast_paths.are_used() for _ in range(3)] == [False] * 3
    (line,) = caplog.messages
    assert line.startswith("pika 1.4.99 is not a version that")
    assert "1.3.2, 1.4.1" in line


def test_the_switch_turns_the_fast_paths_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So that tests can run pika's own way with a compared version."""
    monkeypatch.setenv(fast_paths.SWITCH, "plain")
    with caplog.at_level(logging.INFO):
        assert not fast_paths.are_used()
    assert caplog.messages == [
        "MIRRORFEED_PIKA=plain: sending and receiving in pika's own, slower way"
    ]
