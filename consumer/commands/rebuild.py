"""`mirror-consumer rebuild`: recomputing branch rows."""

from typing import Annotated

import typer

from mirrorfeed.consumer.branches.rebuild import rebuild as rebuild_branches
from mirrorfeed.consumer.commands.differences import as_document, print_differences
from mirrorfeed.consumer.commands.options import DatabaseUrlOption, JsonOption
from mirrorfeed.consumer.commands.output import plural
from mirrorfeed.consumer.commands.program import ready_engine
from mirrorfeed.contract import environment, exit_codes
from mirrorfeed.contract.events import check_branch_id
from mirrorfeed.contract.printing import print_json

app = typer.Typer(rich_markup_mode=None)


@app.command()
def rebuild(
    branch_ids: Annotated[
        list[int] | None, typer.Argument(metavar="ID…", help="Branches by number. [default: all]")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Change nothing, and exit 1 if a row is wrong."),
    ] = False,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Recompute branch rows from their attempts, and show every row that was wrong.

    There should be none: use this as a check, and as the cure if somebody edited rows by hand.

    \b
    Example:
      mirror-consumer rebuild 17
    """
    for branch_id in branch_ids or ():
        check_branch_id(branch_id)
    rebuilt = rebuild_branches(ready_engine(database_url), branch_ids or None, dry_run=dry_run)
    if as_json_document:
        print_json({"checked": rebuilt.checked, "differed": as_document(rebuilt.differed)})
    else:
        print_differences(rebuilt.differed)
        print(f"{plural(rebuilt.checked, 'branch row')} checked, {len(rebuilt.differed)} wrong")
    if dry_run and rebuilt.differed:
        raise typer.Exit(exit_codes.NOT_MET)
