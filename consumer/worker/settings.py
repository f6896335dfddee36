"""How a worker consumes."""

from dataclasses import dataclass

from mirrorfeed.consumer.apply.allowance import LETTERS_PER_HOUR
from mirrorfeed.consumer.apply.message import Limits
from mirrorfeed.contract.tracing import Spans


@dataclass(frozen=True)
class Settings:
    """How a worker consumes."""

    batch_size: int
    limits: Limits
    drain: bool
    required_users: frozenset[str] = frozenset()
    """Users whose messages are applied, as the broker vouches for them; empty means any user."""
    letters_per_hour: int = LETTERS_PER_HOUR
    """How many letters of one source are kept whole; 0 means all."""
    spans: Spans | None = None
    """Where each batch is told, if somebody collects traces."""
