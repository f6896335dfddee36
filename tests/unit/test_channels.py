"""How channels are closed: other workers are let in only by their end."""

from collections.abc import Iterator

import pytest
from pika.adapters.select_connection import SelectConnection
from pika.spec import Basic
from pika.spec import Channel as ChannelMethods

from mirrorfeed.amqp import fast_paths
from mirrorfeed.amqp.channels import begin_to_close
from sandbox.memory_broker import MemoryBroker

CHANNELS = (1, 2)


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    """With a connection of two channels, each of which has two consumers."""
    with MemoryBroker(SelectConnection) as broker:
        for number in CHANNELS:
            channel = broker.open_channel(number)
            for tag in ("one", "two"):
                broker.consume(channel, tag, print)
        yield broker


def methods_written(broker: MemoryBroker, channel_number: int) -> list[type]:
    return [
        type(each.method)
        for each in broker.written_frames()
        if each.channel_number == channel_number
    ]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_paths, "are_used", lambda: True)


@pytest.fixture
def not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_paths, "are_used", lambda: False)


@pytest.mark.usefixtures("compared")
def test_a_channel_that_is_closed_cancels_nothing(broker: MemoryBroker) -> None:
    """The next worker is served when the channel is closed, and gets what it had out first."""
    for channel in broker.channels:
        begin_to_close(channel)
    for number in CHANNELS:
        assert methods_written(broker, number) == [ChannelMethods.Close]


@pytest.mark.usefixtures("not_compared")
def test_with_other_versions_the_broker_is_made_to_close_the_channel(broker: MemoryBroker) -> None:
    """By an ack of what was never delivered; pika, which would cancel first, closes nothing."""
    for channel in broker.channels:
        begin_to_close(channel)
    for number in CHANNELS:
        assert methods_written(broker, number) == [Basic.Ack]
