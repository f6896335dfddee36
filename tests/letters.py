"""Dead letters, made as they come about."""

from sqlalchemy import Engine

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.contract.events import Envelope
from tests.builders import messages


def bury(engine: Engine, *envelopes: Envelope) -> None:
    """Letters of events whose branches are not registered yet."""
    assert Applier(engine).apply(messages(*envelopes)).applied == 0
