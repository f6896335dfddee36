"""How a worker consumes."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Settings:
    """How a worker consumes."""

    batch_size: int
    future_tolerance: timedelta
    drain: bool
    required_users: frozenset[str] = frozenset()
    """Users whose messages are applied, as the broker vouches for them; empty means any user."""
