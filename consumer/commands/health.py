"""`mirror-consumer health`: is everything well, and if not, what is the matter."""

from typing import Annotated, Any, NoReturn

import typer
from msgspec import to_builtins

from mirrorfeed.amqp.connections import connection_parameters
from mirrorfeed.consumer.checkup import Seen, look
from mirrorfeed.consumer.commands.message_limit import advise_limit
from mirrorfeed.consumer.commands.nagios import (
    Level,
    MonitorCommand,
    NagiosOption,
    answer,
    unknown_if_it_fails,
)
from mirrorfeed.consumer.commands.options import DatabaseUrlOption, JsonOption
from mirrorfeed.consumer.commands.output import plural
from mirrorfeed.consumer.commands.program import ready_engine
from mirrorfeed.consumer.errors import ConditionNotMet, ServerUnavailable
from mirrorfeed.consumer.health import STALLED_SECONDS, Kind
from mirrorfeed.contract import environment
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.options import AmqpUrlOption
from mirrorfeed.contract.printing import print_json

app = typer.Typer(rich_markup_mode=None)


@app.command(cls=MonitorCommand)
def health(
    stalled_after: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How long messages may wait in a partition without any being applied.",
        ),
    ] = f"{STALLED_SECONDS:.0f}s",
    is_nagios: NagiosOption = False,
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

    With --nagios, a worker that is not ready is a WARNING, and anything else CRITICAL.

    \b
    Examples:
      mirror-consumer health
      mirror-consumer health --json --stalled-after 5m
    """
    with unknown_if_it_fails(is_nagios, as_json_document):
        addresses = connection_parameters(amqp_url)
        stalled_seconds = duration(stalled_after).total_seconds()
        seen = look(ready_engine(database_url), addresses, stalled_seconds)
    if is_nagios:
        report_to_nagios(seen)
    if as_json_document:
        verdict: dict[str, Any] = {kind: seen.is_well(kind) for kind in Kind}
        print_json(
            {
                **verdict,
                "problems": to_builtins(seen.problems),
                "workers": to_builtins(seen.workers),
            }
        )
    if seen.broker_is_away is not None:
        raise ServerUnavailable("; ".join([seen.broker_is_away, *map(str, seen.problems)]))
    if seen.problems:
        raise ConditionNotMet("; ".join(map(str, seen.problems)))
    if not quiet and not as_json_document:
        advise_limit(addresses)


def report_to_nagios(seen: Seen) -> NoReturn:
    performance = {"workers": str(len(seen.workers)), "queues": str(len(seen.queues))}
    for kind in Kind:
        performance[kind] = str(sum(each.kind is kind for each in seen.problems))
    problems = [*map(str, seen.problems)]
    if seen.broker_is_away is not None:
        answer(Level.CRITICAL, "; ".join([seen.broker_is_away, *problems]), performance)
    if not problems:
        workers, queues = plural(len(seen.workers), "worker"), plural(len(seen.queues), "queue")
        answer(Level.OK, f"{workers} live and ready, {queues} making progress", performance)
    is_only_unready = all(each.kind is Kind.READY for each in seen.problems)
    level = Level.WARNING if is_only_unready and seen.workers else Level.CRITICAL
    answer(level, "; ".join(problems), performance)
