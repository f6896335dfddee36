"""`mirror-publisher resend`: sends again what the broker has confirmed."""

import time
from itertools import islice
from typing import Annotated

import typer

from mirrorfeed.contract import exit_codes, wire
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.events import Envelope
from mirrorfeed.publisher.commands.options import LimitOption, SpoolOption, spool_path
from mirrorfeed.publisher.commands.program import refuse
from mirrorfeed.publisher.kept import kept_events
from mirrorfeed.publisher.spool import DEFAULT_LIMIT_BYTES, Spool, SpooledEvent

CHUNK = 1000

app = typer.Typer()


@app.command()
def resend(
    first: Annotated[
        int | None, typer.Argument(metavar="FROM", min=1, help="The first event's number.")
    ] = None,
    last: Annotated[
        int | None, typer.Argument(metavar="TO", min=1, help="The last event's number.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Events confirmed in this time, such as 90s, 15m, 6h or 2d."
        ),
    ] = None,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Put events back into the spool that the broker has confirmed, so that they are sent again:
    those with the numbers FROM to TO, or those confirmed lately.

    For when a database was restored from a backup, or a queue was purged: mirror-consumer audit
    names what is missing. Twice is once: what the database has does not change. A forwarder keeps
    what it sends for a week (see its --keep).

    \b
    Examples:
      mirror-publisher resend --since 2d
      mirror-publisher resend 40211 40975
    """
    if (first is None) == (since is None) or (first is None) != (last is None):
        refuse("give the numbers FROM and TO, or --since, and not both")
    path = spool_path(spool)
    source = Spool(path, appends=False).status().source
    not_before = 0.0 if since is None else time.time() - duration(since).total_seconds()
    events = (
        spooled(kept.sequence, envelope, kept.body)
        for kept in kept_events(path)
        if kept.confirmed_at >= not_before
        and (envelope := readable(kept.body)) is not None
        and envelope.source == source
        and (first is None or last is None or first <= (envelope.sequence or 0) <= last)
    )
    room = Spool(path, limit_bytes=spool_limit_bytes)
    put_back = 0
    while chunk := list(islice(events, CHUNK)):
        put_back += room.put_back(chunk)
    if not put_back:
        refuse(f"the spool {path} keeps no such events that are not pending", exit_codes.NOT_MET)
    print(f"events to send again: {put_back:,}")


def readable(body: bytes) -> Envelope | None:
    """None if a power cut has damaged it."""
    try:
        return wire.decode(body)
    except wire.DecodeError:
        return None


def spooled(sequence: int, envelope: Envelope, body: bytes) -> SpooledEvent:
    """The event as the spool had it."""
    return SpooledEvent(sequence, envelope.id, envelope.event.TYPE, envelope.partition_key, body)
