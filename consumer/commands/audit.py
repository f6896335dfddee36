"""`mirror-consumer audit` and `prune`: is anything missing, and how much is kept?"""

from datetime import timedelta
from typing import Annotated

import typer
from msgspec import to_builtins

from mirrorfeed.consumer.apply.ledger import audit as audit_ledger
from mirrorfeed.consumer.commands.options import MAX_SECONDS, DatabaseUrlOption, JsonOption
from mirrorfeed.consumer.commands.output import plural, print_json, print_table, span
from mirrorfeed.consumer.commands.program import ready_engine, transaction
from mirrorfeed.consumer.errors import ConditionNotMet
from mirrorfeed.consumer.retention import prune as prune_tables
from mirrorfeed.contract import environment

app = typer.Typer(rich_markup_mode=None)


@app.command()
def audit(
    grace_seconds: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            min=0,
            max=MAX_SECONDS,
            help="Ignore events missing for less than this: they may still be on their way.",
        ),
    ] = 0.0,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show which numbered events of each source have not arrived; exit 1 if any is missing.

    If nothing is missing, and `highest` equals `spooled` in `mirror-publisher status` on that host,
    then everything the host ever reported has arrived.

    \b
    Example:
      mirror-consumer audit --grace 60
    """
    with transaction(database_url) as connection:
        accounts = audit_ledger(connection, grace_seconds=grace_seconds)
    missing_total = sum(account.missing_count for account in accounts)
    if as_json_document:
        sources = [
            {
                **to_builtins(account),
                "missing": [(each.first, each.last) for each in account.missing],
                "missing_seconds": [round(each.missing_seconds, 3) for each in account.missing],
            }
            for account in accounts
        ]
        print_json({"sources": sources, "missing_total": missing_total})
    else:
        print_table(
            ("source", "highest", "received", "missing", "dead"),
            [
                (each.source, each.highest, each.received, each.missing_count, each.dead)
                for each in accounts
            ],
        )
        print_table(
            ("missing from", "first", "last", "for"),
            [
                (account.source, each.first, each.last, span(each.missing_seconds))
                for account in accounts
                for each in account.missing
            ],
        )
    if missing_total:
        raise ConditionNotMet(f"{plural(missing_total, 'event')} missing")


@app.command()
def prune(
    keep_days: Annotated[
        float,
        typer.Option("--keep", metavar="DAYS", min=0, max=36_500, help="How many days to keep."),
    ],
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Delete attempts older than both DAYS and their branch's last success, and letters that were
    replayed or discarded more than DAYS ago. No branch row changes.

    Keep more than the longest outage that a spool may have to wait out.

    \b
    Example:
      mirror-consumer prune --keep 90
    """
    pruned = prune_tables(ready_engine(database_url), timedelta(days=keep_days))
    if as_json_document:
        print_json(to_builtins(pruned))
    else:
        print(f"deleted {plural(pruned.attempts, 'attempt')}, {plural(pruned.letters, 'letter')}")
