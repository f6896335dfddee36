"""A look into a spool file, of which nothing stays open, and what fills it."""

from contextlib import closing
from pathlib import Path

from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope, MirrorFailed, MirrorStarted
from mirrorfeed.publisher.spool import Spool, SpooledEvent, SpoolStatus
from tests.builders import at


def append(spool: Spool, branch_id: int = 1, start: float = 0) -> None:
    """An attempt of the branch begins."""
    with spool.writing() as writer:
        writer.append(MirrorStarted(branch_id, at(start)), occurred_at=at(start))


def sequences(spool: Spool) -> list[int]:
    """The numbers of what waits for the broker."""
    return [event.sequence for event in spool.pending(after=0, limit=1_000_000)]


def status_of(path: Path) -> SpoolStatus:
    with closing(Spool(path)) as spool:
        return spool.status()


def pending_in(path: Path) -> list[SpooledEvent]:
    with closing(Spool(path)) as spool:
        return spool.pending(after=0, limit=1000)


def spooled(path: Path) -> list[Envelope]:
    return [wire.decode(event.body) for event in pending_in(path)]


def reason(path: Path) -> str:
    """Why the latest attempt failed."""
    end = spooled(path)[-1].event
    assert isinstance(end, MirrorFailed)
    return end.reason


def mirror(script: str, *options: str) -> tuple[str, ...]:
    """Mirrors branch 1 by a shell script."""
    return ("mirror-publisher", "run", "--branch", "1", *options, "--", "sh", "-c", script)
