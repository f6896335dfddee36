"""The options that operators' commands share; `contract.options` has the ones of both sides."""

from datetime import timedelta
from typing import Annotated

import typer

from mirrorfeed.consumer.apply.message import FUTURE_TOLERANCE, Limits
from mirrorfeed.consumer.errors import UsageError
from mirrorfeed.contract import environment, routing
from mirrorfeed.contract.durations import MAX_SECONDS
from mirrorfeed.contract.events import MAX_SEQUENCE
from mirrorfeed.contract.options import given_or_in_file

FUTURE_TOLERANCE_SECONDS = FUTURE_TOLERANCE.total_seconds()


DatabaseUrlOption = Annotated[
    str,
    typer.Option(
        "--database-url",
        envvar=environment.DATABASE_URL,
        callback=given_or_in_file(environment.DATABASE_URL),
        help=f"The database's URL. Can also be in a file named by {environment.DATABASE_URL}_FILE,"
        " which each connection reads again.",
    ),
]

PartitionsOption = Annotated[
    int,
    typer.Option(
        "--partitions",
        envvar=environment.PARTITIONS,
        min=1,
        max=routing.SLOTS,
        help="How many partition queues to begin with. Ignored once the database has a number.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

FutureToleranceOption = Annotated[
    float,
    typer.Option(
        "--future-tolerance-seconds",
        min=0,
        max=MAX_SECONDS,
        help="How far an event's time may be ahead of this host's clock.",
    ),
]

HighestSequenceOption = Annotated[
    int,
    typer.Option(
        "--highest-sequence",
        metavar="N",
        min=1,
        max=MAX_SEQUENCE,
        help="The highest number of an event that is believed.",
    ),
]
SourceArgument = Annotated[
    str, typer.Argument(metavar="SOURCE", help="The source, as `mirror-consumer sources` shows it.")
]
NoteOption = Annotated[str, typer.Option(help="Why: it is kept with the decision.")]


def checked_note(note: str) -> str:
    """Raises UsageError if it says nothing."""
    if not note.strip():
        raise UsageError("--note must say why")
    return note


def limits(future_tolerance_seconds: float, highest_sequence: int) -> Limits:
    return Limits(timedelta(seconds=future_tolerance_seconds), highest_sequence)
