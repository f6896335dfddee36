"""`mirror-consumer branches import`: many branches from a file."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from mirrorfeed.consumer.branches.branch_file import read_branches
from mirrorfeed.consumer.branches.mirror_state import Difference
from mirrorfeed.consumer.branches.register import NewBranch, register
from mirrorfeed.consumer.branches.takeover import take_over
from mirrorfeed.consumer.commands.differences import as_document, print_differences
from mirrorfeed.consumer.commands.options import (
    FUTURE_TOLERANCE_SECONDS,
    DatabaseUrlOption,
    FutureToleranceOption,
    JsonOption,
)
from mirrorfeed.consumer.commands.program import ready_engine
from mirrorfeed.contract import environment
from mirrorfeed.contract.printing import print_json

app = typer.Typer(rich_markup_mode=None)


@app.command("import")
def import_branches(
    file: Annotated[
        typer.FileBinaryRead,
        typer.Argument(help="CSV with a heading: id, unique_name, url; - is standard input."),
    ],
    update: Annotated[
        bool,
        typer.Option("--update", help="Also give registered branches these names and URLs."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    future_tolerance_seconds: FutureToleranceOption = FUTURE_TOLERANCE_SECONDS,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Register all branches in a file, or none if one of them cannot be. Safe to repeat.

    Without --update a branch that is registered under another name or with another URL stops the
    import. An empty URL changes nothing. Branches that are not in the file stay as they are.

    The file may also have the mirror columns of the branch table: last_mirror_attempt,
    last_mirrored, last_mirrored_id, mirror_failures, mirror_status_message. A branch that has no
    attempts yet takes them over, and continues from there.

    \b
    Examples:
      mirror-consumer branches import branches.csv
      mirror-consumer branches import --update --dry-run branches.csv
    """
    name = "standard input" if file.name == "<stdin>" else file.name
    tolerance = timedelta(seconds=future_tolerance_seconds)
    branches = read_branches(file, name, not_after=datetime.now(UTC) + tolerance)
    states = {branch.id: branch.state for branch in branches if branch.state is not None}
    with ready_engine(database_url).connect() as connection:
        done = register(connection, branches, update=update)
        taken = take_over(connection, states)
        if not dry_run:
            connection.commit()
    changed = [*done.changed, *map(as_difference, done.new)]
    unchanged = len({branch.id for branch in branches}) - len(changed)
    if as_json_document:
        print_json(
            {
                "dry_run": dry_run,
                "new": len(done.new),
                "changed": len(done.changed),
                "unchanged": unchanged,
                "taken_over": taken,
                "branches": as_document(changed),
            }
        )
        return
    print_differences(changed if dry_run else done.changed)
    would = "dry run: " if dry_run else ""
    updated = f" {len(done.changed):,} changed," if update else ""
    print(
        f"{would}branches registered: {len(done.new):,} new,{updated} {unchanged:,} already there"
    )
    if states:
        print(f"{would}mirror states taken over: {taken:,}")


def as_difference(branch: NewBranch) -> Difference:
    """A new branch, as a change from nothing."""
    after = {"unique_name": branch.unique_name, "url": branch.url or None}
    return Difference(branch.id, dict.fromkeys(after), after)
