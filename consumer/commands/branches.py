"""`mirror-consumer branches` and `rebuild`: the register, and recomputing its rows."""

from pathlib import Path
from typing import Annotated

import typer

from mirrorfeed.consumer.branches.rebuild import rebuild as rebuild_branches
from mirrorfeed.consumer.branches.register import NewBranch, read_branches, register
from mirrorfeed.consumer.branches.takeover import take_over
from mirrorfeed.consumer.commands.differences import as_document, print_differences
from mirrorfeed.consumer.commands.options import DatabaseUrlOption, JsonOption
from mirrorfeed.consumer.commands.output import plural, print_json
from mirrorfeed.consumer.commands.program import ready_engine, transaction
from mirrorfeed.contract import environment, exit_codes
from mirrorfeed.contract.events import check_branch_id

app = typer.Typer(rich_markup_mode=None)
branches_app = typer.Typer(help="Register branches.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(branches_app, name="branches")


@branches_app.command("add")
def add_branch(
    branch_id: Annotated[int, typer.Argument(metavar="ID", help="The branch's number.")],
    unique_name: Annotated[str, typer.Argument(help="Its name; no other branch may have it.")],
    url: Annotated[str | None, typer.Option(help="Where it is mirrored from.")] = None,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Register one branch. Safe to repeat.

    \b
    Example:
      mirror-consumer branches add 17 ~jane/project/main --url https://example.org/main
    """
    with transaction(database_url) as connection:
        register(connection, [NewBranch(branch_id, unique_name, url)])


@branches_app.command("import")
def import_branches(
    file: Annotated[Path, typer.Argument(help="CSV with a heading: id, unique_name, url.")],
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Register all branches in a file, or none if one of them cannot be. Safe to repeat.

    The file may also have the mirror columns of the branch table: last_mirror_attempt,
    last_mirrored, last_mirrored_id, mirror_failures, mirror_status_message. A branch that has no
    attempts yet takes them over, and continues from there.

    \b
    Example:
      mirror-consumer branches import branches.csv
    """
    branches = read_branches(file)
    with transaction(database_url) as connection:
        new = register(connection, branches)
        states = {branch.id: branch.state for branch in branches if branch.state is not None}
        taken = take_over(connection, states)
    print(f"branches registered: {new} new, {len(branches) - new} already there")
    if states:
        print(f"mirror states taken over: {taken}")


@app.command()
def rebuild(
    branch_ids: Annotated[
        list[int] | None, typer.Argument(metavar="ID", help="Branches by number. [default: all]")
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
