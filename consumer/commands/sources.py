"""`mirror-consumer sources`: who reports, and what has arrived from each."""

from typing import Annotated

import typer

from mirrorfeed.consumer.commands.options import (
    DatabaseUrlOption,
    JsonOption,
    NoteOption,
    SourceArgument,
    checked_note,
)
from mirrorfeed.consumer.commands.output import plural, print_table, span
from mirrorfeed.consumer.commands.program import (
    reading,
    refuse_options_before_subcommand,
    transaction,
)
from mirrorfeed.consumer.database import age_seconds, as_json, database_now
from mirrorfeed.consumer.errors import ConditionNotMet
from mirrorfeed.consumer.sources import decisions as settled
from mirrorfeed.consumer.sources.audit import audit
from mirrorfeed.consumer.sources.silence import silent_hosts
from mirrorfeed.contract import environment
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.events import MAX_SEQUENCE
from mirrorfeed.contract.printing import print_json

COLUMNS = (
    "source",
    "hostname",
    "first_heard_at",
    "last_heard_at",
    "silent_seconds",
    "highest",
    "missing",
    "accepted",
    "dead",
    "overflow",
)

app = typer.Typer(rich_markup_mode=None)
sources_app = typer.Typer(rich_markup_mode=None)
app.add_typer(sources_app, name="sources")


@sources_app.callback(invoke_without_command=True)
def sources(
    context: typer.Context,
    silent_after: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Exit 1 if a host has not been heard for this long, such as 90m or 1d.",
        ),
    ] = None,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show every source: its host, when it was heard, its highest number and what is missing.

    A source is a spool on a puller host, or a publisher that does not number its events. `audit`
    shows which numbers are missing. A spool that is quiet speaks once an hour, so a host that is
    silent for longer is away, or has no forwarder.

    \b
    Examples:
      mirror-consumer sources
      mirror-consumer sources --silent-after 2h
    """
    if context.invoked_subcommand is not None:
        refuse_options_before_subcommand(context)
        return
    with reading(database_url) as connection:
        now = database_now(connection)
        accounts = audit(connection, limit=0).all_accounts
    silent = [] if silent_after is None else silent_hosts(accounts, now, duration(silent_after))
    rows = [
        (
            each.source,
            each.hostname,
            each.first_heard_at,
            each.last_heard_at,
            round(age_seconds(now, each.last_heard_at)),
            each.highest,
            each.missing_events,
            each.accepted,
            each.dead,
            each.overflow,
        )
        for each in accounts
    ]
    if as_json_document:
        document = [as_json(dict(zip(COLUMNS, row, strict=True))) for row in rows]
        print_json({"sources": document, "silent": [each.name for each in silent]})
    else:
        print_table(
            [name.replace("_", " ") for name in COLUMNS],
            rows,
            empty="no source has sent an event yet",
        )
    if silent:
        told = ", ".join(f"{each.name} for {span(each.silent_seconds)}" for each in silent)
        raise ConditionNotMet(f"{plural(len(silent), 'host')} silent: {told}")


@sources_app.command()
def forget(
    source: SourceArgument,
    note: NoteOption,
    above: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=MAX_SEQUENCE,
            help="Forget only numbers above N, which the source never reached.",
        ),
    ] = 0,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Forget which numbers of a source have arrived: it is audited as if it were new.

    Forget a source whose host is gone, and numbers that somebody made up. What its events have done
    stays. `mirror-consumer audit undo` takes the decision back.

    \b
    Examples:
      mirror-consumer sources forget /pullers/vostok/UUID \\
        --note "the host was given away"
      mirror-consumer sources forget /pullers/vostok/UUID \\
        --above 5000 --note "forged"
    """
    with transaction(database_url) as connection:
        done = settled.forget(connection, source, above, checked_note(note))
    print(
        f"{plural(done.events, 'number')} forgotten; to take that back:"
        f" mirror-consumer audit undo {done.decision_id} --note TEXT"
    )
