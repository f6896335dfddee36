"""A spool's account, with the size of its files."""

from contextlib import closing
from pathlib import Path

from msgspec import Struct

from mirrorfeed.publisher.spool import Spool, SpoolStatus
from mirrorfeed.publisher.spool_access import LOG, beside


class SpoolAccount(Struct, frozen=True):
    """How a spool is at one moment."""

    status: SpoolStatus
    size_bytes: int
    """Of the file and its log."""
    limit_bytes: int


def read_account(path: Path, limit_bytes: int) -> SpoolAccount:
    """Raises SpoolError."""
    with closing(Spool(path, appends=False)) as spool:
        status = spool.status()
    files = path, beside(path, LOG)
    size_bytes = sum(file.stat().st_size for file in files if file.exists())
    return SpoolAccount(status, size_bytes, limit_bytes)
