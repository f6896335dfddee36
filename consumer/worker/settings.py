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
    """Who may have published what is applied, by the broker's word; empty for anybody."""
