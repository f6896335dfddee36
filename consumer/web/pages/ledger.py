"""What several pages need of the ledger: each source's account, and which hosts are silent."""

from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection

from mirrorfeed.consumer.database import database_now
from mirrorfeed.consumer.sources.audit import Audit, SourceAccount, audit
from mirrorfeed.consumer.sources.silence import Heard, silent_hosts
from mirrorfeed.consumer.web.context import Context

FRESH_SECONDS = 5.0
LISTED_RANGES = 200


class Ledger(Struct, frozen=True):
    """The ledger as it was at one time."""

    at: datetime
    audit: Audit
    accounts: list[SourceAccount]
    """Of all sources, those too that do not number their events."""
    silent: list[Heard]

    @property
    def last_event_at(self) -> datetime | None:
        """When events last arrived from anybody."""
        return max((each.last_heard_at for each in self.accounts), default=None)


def ledger(context: Context) -> Ledger:
    """Raises SQLAlchemyError."""

    def read(connection: Connection) -> Ledger:
        now = database_now(connection)
        audited = audit(
            connection, grace_seconds=context.settings.grace_seconds, limit=LISTED_RANGES
        )
        accounts = audited.all_accounts
        silent = silent_hosts(accounts, now, context.settings.silent_after)
        return Ledger(now, audited, accounts, silent)

    return context.read("ledger", read, fresh_seconds=FRESH_SECONDS)
