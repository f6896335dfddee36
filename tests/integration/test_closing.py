"""How both sides leave the broker, whatever they are at."""

from collections.abc import Callable
from typing import Any

import pytest
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel
from pika.connection import Connection
from sqlalchemy import Engine

from mirrorfeed.amqp import fast_paths
from mirrorfeed.amqp.connections import Addresses
from mirrorfeed.amqp.read_frames import delivery_connection
from mirrorfeed.amqp.session import Session
from mirrorfeed.consumer.apply.message import Limits
from mirrorfeed.consumer.worker.service import Worker
from mirrorfeed.consumer.worker.settings import Settings
from mirrorfeed.contract import routing
from tests.builders import started
from tests.servers import publish_events, register_branches, rows


class Leaving(Session):
    """Ends once the connection is in this state."""

    def __init__(self, connect: Callable[..., Any], url: str, state: int) -> None:
        self._state = state
        self.was_open = False
        super().__init__(connect, next(Addresses(url, name="test")))

    def run(self) -> None:
        self._end_if_there()
        try:
            self._run_loop()
        finally:
            self._ioloop.close()

    def _end_if_there(self) -> None:
        if self._connection.connection_state == self._state:
            self._end()
        else:
            self._ioloop.add_callback_threadsafe(self._end_if_there)

    def _on_connection_open(self, connection: Any) -> None:
        self.was_open = True


@pytest.mark.parametrize("connect", [SelectConnection, delivery_connection])
@pytest.mark.parametrize(
    "state",
    [
        Connection.CONNECTION_INIT,
        Connection.CONNECTION_PROTOCOL,
        Connection.CONNECTION_START,
        Connection.CONNECTION_TUNE,
        Connection.CONNECTION_OPEN,
    ],
)
def test_a_session_may_end_while_it_is_being_opened(
    amqp_url: str, connect: Callable[..., Any], state: int
) -> None:
    """Before the broker answers, in the middle of its greeting, and after it."""
    session = Leaving(connect, amqp_url, state)
    session.run()
    assert session.error is None
    assert session.was_open == (state == Connection.CONNECTION_OPEN)


def test_what_the_broker_closes_is_not_closed_from_here(
    engine: Engine, topology: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel that is closed from both sides at once may stay open here for ever."""
    monkeypatch.setattr(fast_paths, "are_used", lambda: False)
    closed_with_consumers = []
    close = Channel.close

    def noted(channel: Channel, *arguments: Any, **named: Any) -> None:
        closed_with_consumers.extend(channel.consumer_tags)
        close(channel, *arguments, **named)

    monkeypatch.setattr(Channel, "close", noted)
    register_branches(engine, 1)
    publish_events(topology, started(1, 0))
    worker = Worker(
        engine,
        Addresses(topology, name="test"),
        Settings(batch_size=10, limits=Limits(), drain=True),
        share=None,
        default_partitions=routing.DEFAULT_PARTITIONS,
    )
    worker.run()
    assert rows(engine, "SELECT count(*) FROM mirror_attempt") == [(1,)]
    assert closed_with_consumers == []
