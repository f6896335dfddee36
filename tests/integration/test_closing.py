"""How a worker leaves the broker when it uses only pika's public names."""

from typing import Any

import pytest
from pika.channel import Channel
from sqlalchemy import Engine

from mirrorfeed.amqp import fast_paths
from mirrorfeed.amqp.connections import Addresses
from mirrorfeed.consumer.apply.message import Limits
from mirrorfeed.consumer.worker.service import Worker
from mirrorfeed.consumer.worker.settings import Settings
from mirrorfeed.contract import routing
from tests.builders import started
from tests.servers import publish_events, register_branches, rows


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
