"""When a session looks into the spool, with a broker that is only thought of."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from pika.frame import Method, decode_frame
from pika.spec import Basic

from mirrorfeed.amqp.connections import connection_parameters
from mirrorfeed.contract.events import MirrorStarted
from mirrorfeed.publisher.forward.pipeline import Pipeline
from mirrorfeed.publisher.forward.session import LINGER_EVENTS, LINGER_SECONDS, PublishingSession
from mirrorfeed.publisher.spool import Spool
from tests.builders import at

BODY_BYTES = 128 * 1024


class Loop:
    """An I/O loop that runs what it was given only when it is told to."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def add_callback_threadsafe(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> object:
        self.timers.append((seconds, callback))
        return object()

    def run_callbacks(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()

    def run_timers(self, seconds: float) -> None:
        due = [timer for timer in self.timers if timer[0] == seconds]
        self.timers = [timer for timer in self.timers if timer[0] != seconds]
        for _, callback in due:
            callback()


class Stage:
    """A session on a channel that takes everything; `sent` counts."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = Loop()
        self.sent = 0
        connection = SimpleNamespace(
            ioloop=self.loop,
            is_open=True,
            _body_max_length=BODY_BYTES,
            _output_marshaled_frames=self._take,
        )
        monkeypatch.setattr(
            "mirrorfeed.publisher.forward.session.SelectConnection", lambda *_, **__: connection
        )
        self.spool = Spool(path)
        (parameters,) = connection_parameters("amqp://guest:guest@127.0.0.1/")
        self.session = PublishingSession(parameters, self.spool, Pipeline(self.spool, window=10))
        self._channel = SimpleNamespace(is_open=True, channel_number=1, connection=connection)

    def connect(self) -> None:
        self.session._on_ready(self._channel)

    def call(self, branch_id: int) -> None:
        with self.spool.writing() as writer:
            writer.append(MirrorStarted(branch_id, at(0)), occurred_at=at(0))
        self.session.wake()

    def confirm_all(self) -> None:
        self.session._on_confirm(SimpleNamespace(method=Basic.Ack(self.sent, multiple=True)))

    def _take(self, written: Sequence[bytes]) -> None:
        frames = b"".join(written)
        while frames:
            size, taken = decode_frame(frames)
            self.sent += isinstance(taken, Method)
            frames = frames[size:]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    stage = Stage(tmp_path / "spool.db", monkeypatch)
    yield stage
    stage.spool.close()


def test_what_is_called_before_there_is_a_channel_waits_for_it(stage: Stage) -> None:
    """A call wakes up a session that is still connecting, too."""
    stage.call(1)
    stage.loop.run_callbacks()
    assert stage.sent == 0
    stage.connect()
    assert stage.sent == 1


def test_an_event_that_comes_alone_is_sent_at_once(stage: Stage) -> None:
    """The next one, too, once the first is confirmed."""
    stage.connect()
    for branch_id in (1, 2):
        stage.call(branch_id)
        stage.loop.run_callbacks()
        assert stage.sent == branch_id
        stage.confirm_all()


def test_what_is_called_before_a_confirm_is_sent_after_it(stage: Stage) -> None:
    """No call wakes up a session that a confirm will wake up."""
    stage.connect()
    stage.call(1)
    stage.loop.run_callbacks()
    stage.call(2)
    stage.call(3)
    assert (stage.loop.callbacks, stage.sent) == ([], 1)
    stage.confirm_all()
    assert stage.sent == 3


def test_what_is_called_in_quick_succession_is_gathered(stage: Stage) -> None:
    """Neither a call nor a confirm ends the lingering, but its time does."""
    stage.connect()
    for branch_id in range(LINGER_EVENTS):
        stage.call(1 + branch_id)
    stage.loop.run_callbacks()
    assert stage.sent == LINGER_EVENTS
    stage.call(100)
    stage.confirm_all()
    assert (stage.loop.callbacks, stage.sent) == ([], LINGER_EVENTS)
    stage.loop.run_timers(LINGER_SECONDS)
    assert stage.sent == LINGER_EVENTS + 1


def test_a_link_that_has_lingered_sends_at_once_again(stage: Stage) -> None:
    """Where nothing came meanwhile."""
    stage.connect()
    for branch_id in range(LINGER_EVENTS):
        stage.call(1 + branch_id)
    stage.loop.run_callbacks()
    stage.confirm_all()
    stage.loop.run_timers(LINGER_SECONDS)
    stage.call(100)
    stage.loop.run_callbacks()
    assert stage.sent == LINGER_EVENTS + 1
