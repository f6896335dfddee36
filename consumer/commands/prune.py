"""`mirror-consumer prune`: how much is kept."""

from datetime import timedelta
from typing import Annotated

import typer
from msgspec import to_builtins

from mirrorfeed.consumer.commands.options import DatabaseUrlOption, JsonOption
from mirrorfeed.consumer.commands.output import plural
from mirrorfeed.consumer.commands.program import ready_engine
from mirrorfeed.consumer.retention import prune as prune_tables
from mirrorfeed.contract import environment
from mirrorfeed.contract.printing import print_json

app = typer.Typer(rich_markup_mode=None)


@app.command()
def prune(
    keep_days: Annotated[
        float,
        typer.Option("--keep", metavar="DAYS", min=0, max=36_500, help="How many days to keep."),
    ],
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Delete attempts that began more than DAYS ago and no longer decide what their branch shows,
    and letters, counts of messages that were not kept, and operations that were settled more than
    DAYS ago. No branch row changes.

    Of a branch that keeps failing, its old failures are deleted, and only their number is kept.

    Keep more than the longest outage that a spool may have to wait out.

    \b
    Example:
      mirror-consumer prune --keep 90
    """
    pruned = prune_tables(ready_engine(database_url), timedelta(days=keep_days))
    if as_json_document:
        print_json(to_builtins(pruned))
    else:
        print(
            f"deleted {plural(pruned.attempts, 'attempt')}, {plural(pruned.letters, 'letter')},"
            f" {plural(pruned.overflow, 'note')} of messages not kept,"
            f" {plural(pruned.suspects, 'suspect')}, {plural(pruned.operations, 'operation')}"
        )
