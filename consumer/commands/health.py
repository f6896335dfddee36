"""`mirror-consumer health`: is everything well, and if not, what is the matter."""

from typing import Annotated, Any

import typer
from msgspec import to_builtins

from mirrorfeed.amqp.connections import (
    broker_channel,
    connection_parameters,
    consumer_count,
    message_count,
)
from mirrorfeed.consumer.commands.message_limit import advise_limit
from mirrorfeed.consumer.commands.options import DatabaseUrlOption, JsonOption
from mirrorfeed.consumer.commands.program import ready_engine
from mirrorfeed.consumer.errors import ConditionNotMet
from mirrorfeed.consumer.health import (
    STALLED_SECONDS,
    Kind,
    QueueCounts,
    examine,
    worker_states,
)
from mirrorfeed.consumer.partitions.layout import read_layout
from mirrorfeed.contract import environment
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.options import AmqpUrlOption
from mirrorfeed.contract.printing import print_json

app = typer.Typer(rich_markup_mode=None)


@app.command()
def health(
    stalled_after: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How long messages may wait in a partition without any being applied.",
        ),
    ] = f"{STALLED_SECONDS:.0f}s",
    as_json_document: JsonOption = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            help="Give no advice, only the exit code and why: for a check that runs every few"
            " seconds. Each look for advice is an error in the broker's log.",
        ),
    ] = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
) -> None:
    """Exit 0 if the database can be written to, the workers are live and ready, and every
    partition makes progress; else say why not.

    A worker is live if a restart would not help it, and ready if it does all that it should. A
    partition makes progress if no message waits in it in vain.

    \b
    Examples:
      mirror-consumer health
      mirror-consumer health --json --stalled-after 5m
    """
    stalled_seconds = duration(stalled_after).total_seconds()
    engine = ready_engine(database_url)
    with engine.connect() as connection:
        queues = read_layout(connection).queues
        workers = worker_states(connection, queues)
    addresses = connection_parameters(amqp_url)
    with broker_channel(addresses) as channel:
        counts = {
            queue: QueueCounts(message_count(channel, queue), consumer_count(channel, queue))
            for queue in queues
        }
    problems = examine(queues, workers, counts, stalled_seconds=stalled_seconds)
    if as_json_document:
        verdict: dict[str, Any] = {
            kind: not any(each.kind == kind for each in problems) for kind in Kind
        }
        print_json({**verdict, "problems": to_builtins(problems), "workers": to_builtins(workers)})
    if problems:
        raise ConditionNotMet("; ".join(map(str, problems)))
    if not quiet and not as_json_document:
        advise_limit(addresses)
