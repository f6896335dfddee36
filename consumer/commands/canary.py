"""`mirror-consumer canary`: does an event really come through?"""

from typing import Annotated, Any

import typer
from msgspec import to_builtins

from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer.commands.nagios import (
    Level,
    MonitorCommand,
    NagiosOption,
    answer,
    unknown_if_it_fails,
)
from mirrorfeed.consumer.commands.options import DatabaseUrlOption, JsonOption
from mirrorfeed.consumer.commands.output import exact_span, print_table
from mirrorfeed.consumer.commands.program import ready_engine
from mirrorfeed.consumer.errors import ConditionNotMet
from mirrorfeed.consumer.partitions.canary import Flight, fly
from mirrorfeed.consumer.partitions.layout import read_layout
from mirrorfeed.contract import environment
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.options import AmqpUrlOption
from mirrorfeed.contract.printing import print_json

app = typer.Typer(rich_markup_mode=None)


@app.command(cls=MonitorCommand)
def canary(
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="How long to wait for the rows.")
    ] = "30s",
    is_nagios: NagiosOption = False,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
) -> None:
    """Send one script run through each partition and wait for its row; exit 1 if one is missing.

    It needs a user of the broker that may publish as pullers do. Each canary leaves a run of a
    script named canary-N.

    \b
    Example:
      mirror-consumer canary --timeout 10s
    """
    with unknown_if_it_fails(is_nagios, as_json_document):
        patience = duration(timeout)
        addresses = connection_parameters(amqp_url)
        users = {each.credentials.username for each in addresses}
        engine = ready_engine(database_url)
        with engine.connect() as connection:
            layout = read_layout(connection)
        with broker_channel(addresses) as channel:
            channel.confirm_delivery()
            flights = fly(
                engine,
                channel,
                layout,
                user=users.pop() if len(users) == 1 else None,
                timeout_seconds=patience.total_seconds(),
            )
    lost = [each for each in flights if each.seconds is None]
    told = "; ".join(fate(each, timeout) for each in lost)
    if is_nagios:
        slowest = max((each.seconds or 0.0 for each in flights), default=0.0)
        performance = {"slowest": f"{slowest:.3f}s", "lost": f"{len(lost)};;0"}
        level = Level.CRITICAL if lost else Level.OK
        answer(level, told or f"all {len(flights)} partitions, within {slowest:.1f} s", performance)
    if as_json_document:
        document: dict[str, Any] = {"partitions": to_builtins(flights)}
        print_json(document)
    else:
        print_table(
            ("partition", "script", "took"),
            [
                (each.queue, each.name, "" if each.seconds is None else exact_span(each.seconds))
                for each in flights
            ],
        )
    if lost:
        raise ConditionNotMet(told)


def fate(flight: Flight, timeout: str) -> str:
    if flight.reason is not None:
        return f"{flight.queue}: it became a letter, {flight.reason}: {flight.detail}"
    return f"{flight.queue}: nothing arrived within {timeout}; mirror-consumer health may say why"
