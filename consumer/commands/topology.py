"""`mirror-consumer topology`: shows the partitions, and changes how many there are."""

import sys
from typing import Annotated

import typer
from msgspec import Struct, to_builtins

from mirrorfeed.amqp.connections import (
    broker_channel,
    connection_parameters,
    consumer_count,
    message_count,
)
from mirrorfeed.consumer.commands.options import DatabaseUrlOption, JsonOption
from mirrorfeed.consumer.commands.output import print_table
from mirrorfeed.consumer.commands.program import reading_engine, ready_engine
from mirrorfeed.consumer.partitions.assignment import Member, living, owners
from mirrorfeed.consumer.partitions.layout import Stage, read_layout
from mirrorfeed.consumer.partitions.repartition import repartition
from mirrorfeed.contract import environment, routing
from mirrorfeed.contract.options import AmqpUrlOption
from mirrorfeed.contract.printing import print_json

app = typer.Typer(rich_markup_mode=None)


class WorkerProcess(Struct, frozen=True):
    """Where a worker runs, and its number."""

    hostname: str
    pid: int
    number: int


class Partition(Struct, frozen=True):
    """One queue that the workers consume."""

    queue: str
    slots: list[int]
    backlog: int
    """Waiting messages, not counting those a worker has in hand."""
    worker: WorkerProcess | None
    """The worker that is to consume it."""
    is_consumed: bool
    """Whether that worker is subscribed, as both it and the broker say."""


@app.command()
def topology(
    partitions: Annotated[
        int | None,
        typer.Option(
            "--partitions",
            min=1,
            max=routing.SLOTS,
            help="Change to this many partitions, while events come and workers run.",
        ),
    ] = None,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
) -> None:
    """Show each partition, how much is waiting in it and which worker consumes it; or change how
    many partitions there are.

    A change waits until the workers have applied what is in the old queues. If it is interrupted,
    run it again and it continues.

    \b
    Examples:
      mirror-consumer topology
      mirror-consumer topology --partitions 8
    """
    to_engine = reading_engine if partitions is None else ready_engine
    engine, addresses = to_engine(database_url), connection_parameters(amqp_url)
    if partitions is not None:
        repartition(engine, addresses, partitions, report=lambda line: print(line, file=sys.stderr))
    with engine.connect() as connection:
        layout = read_layout(connection)
        members = living(connection)
    with broker_channel(addresses) as channel:
        backlogs = {queue: message_count(channel, queue) for queue in layout.queues}
        consumed = {queue for queue in layout.queues if consumer_count(channel, queue)}
    dealt = owners(layout.queues, members)
    shown = [
        Partition(
            queue,
            routing.slots(index, len(layout.queues)),
            backlogs[queue],
            _worker(dealt.get(queue)),
            queue in consumed and queue in dealt and queue in dealt[queue].queues,
        )
        for index, queue in enumerate(layout.queues)
    ]
    if as_json_document:
        print_json({**to_builtins(layout), "queues": to_builtins(shown)})
        return
    print_table(
        ("queue", "slots", "backlog", "worker"),
        [(each.queue, len(each.slots), each.backlog, _named(each)) for each in shown],
    )
    if layout.stage is not Stage.STEADY:
        print(
            f"a move to {layout.moving_to} partitions has begun: continue it with"
            f" mirror-consumer topology --partitions {layout.moving_to}"
        )


def _worker(member: Member | None) -> WorkerProcess | None:
    return WorkerProcess(member.hostname, member.pid, member.number) if member else None


def _named(partition: Partition) -> str:
    worker = partition.worker
    if worker is None:
        return "none: start mirror-consumer run"
    name = f"{worker.hostname}, process {worker.pid}"
    return name if partition.is_consumed else f"{name} (not yet)"
