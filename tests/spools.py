"""A look into a spool file, of which nothing stays open."""

from contextlib import closing
from pathlib import Path

from mirrorfeed.publisher.spool import Spool, SpooledEvent, SpoolStatus


def status_of(path: Path) -> SpoolStatus:
    with closing(Spool(path)) as spool:
        return spool.status()


def pending_in(path: Path) -> list[SpooledEvent]:
    with closing(Spool(path)) as spool:
        return spool.pending(after=0, limit=1000)
