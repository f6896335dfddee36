"""What was delivered before may have killed a worker."""

from collections.abc import Sequence

import pytest
from sqlalchemy import Engine, text

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.message import Message, read_message
from mirrorfeed.consumer.apply.suspects import MAX_TRIALS, MustBeAlone
from tests.builders import messages, started
from tests.servers import register_branches, rows

BRANCH = 7
TRIALS = "SELECT trials FROM suspect"


class Killed(BaseException):
    """What a worker that is killed does not live to see."""


@pytest.fixture
def bodies(engine: Engine) -> list[bytes]:
    register_branches(engine, BRANCH)
    return [message.body for message in messages(*(started(BRANCH, n) for n in range(5)))]


def apply(engine: Engine, bodies: Sequence[bytes], *, deadly: bytes | None = None) -> None:
    """By a worker of its own."""

    def read() -> list[Message]:
        if deadly in bodies:
            raise Killed
        return list(map(read_message, bodies))

    Applier(engine).apply_suspects(bodies, read)


def test_what_did_no_harm_is_applied_together(engine: Engine, bodies: list[bytes]) -> None:
    """In one transaction, even if something is there twice; nothing is noted any more."""
    apply(engine, [*bodies, bodies[0]])
    assert len(rows(engine, "SELECT DISTINCT xmin::text FROM mirror_attempt")) == 1
    assert rows(engine, TRIALS) == []


def test_what_was_there_when_a_worker_ended_is_tried_alone(
    engine: Engine, bodies: list[bytes]
) -> None:
    """What was not may be tried together, and a trial that is not begun counts for nothing."""
    with pytest.raises(Killed):
        apply(engine, bodies[1:3], deadly=bodies[2])
    for _ in range(MAX_TRIALS):
        with pytest.raises(MustBeAlone) as error:
            apply(engine, bodies)
        assert error.value.those == [False, True, True, False, False]
    assert rows(engine, TRIALS) == [(1,), (1,)]
    for group in (bodies[:1], bodies[1:2], bodies[3:]):
        apply(engine, group)
    for _ in range(MAX_TRIALS - 1):
        with pytest.raises(Killed):
            apply(engine, bodies[2:3], deadly=bodies[2])
    apply(engine, bodies[2:3], deadly=bodies[2])
    assert rows(engine, TRIALS) == []
    ((reason, body),) = rows(engine, "SELECT reason, body FROM dead_letter")
    assert (reason, bytes(body)) == ("delivery-limit", bodies[2])
    assert len(rows(engine, "SELECT FROM mirror_attempt")) == 4


def test_a_trial_that_fails_for_want_of_a_database_counts_for_nobody(
    engine: Engine, bodies: list[bytes]
) -> None:
    """However often it is tried."""
    applier = Applier(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE mirror_attempt RENAME TO elsewhere"))
    for _ in range(MAX_TRIALS + 1):
        with pytest.raises(Exception, match="mirror_attempt"):
            applier.apply_suspects(bodies, lambda: list(map(read_message, bodies)))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO mirror_attempt"))
    assert applier.apply_suspects(bodies, lambda: list(map(read_message, bodies))).applied == 5
    assert rows(engine, TRIALS) == []
