"""Which hosts have not been heard for too long.

A spool that is replaced is a new source, so it is hosts that are silent, not sources.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from msgspec import Struct

from mirrorfeed.consumer.sources.audit import SourceAccount

SILENT_AFTER = timedelta(hours=2)
"""A spool that is quiet speaks once an hour."""


class Heard(Struct, frozen=True):
    """When a host was last heard, by the database's clock."""

    name: str
    """Its hostname, or the source if that is not a spool."""
    last_heard_at: datetime
    silent_seconds: float


def heard_hosts(accounts: Iterable[SourceAccount], now: datetime) -> list[Heard]:
    """Each host of the sources, the longest silent first."""
    latest: dict[str, datetime] = {}
    for account in accounts:
        name = account.hostname or account.source
        latest[name] = max(account.last_heard_at, latest.get(name, account.last_heard_at))
    heard = [Heard(name, at, max(0.0, (now - at).total_seconds())) for name, at in latest.items()]
    return sorted(heard, key=lambda each: (-each.silent_seconds, each.name))


def silent_hosts(
    accounts: Iterable[SourceAccount], now: datetime, silent_after: timedelta
) -> list[Heard]:
    """Those that were last heard longer ago than that."""
    return [
        each
        for each in heard_hosts(accounts, now)
        if each.silent_seconds > silent_after.total_seconds()
    ]
