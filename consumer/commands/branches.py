"""`mirror-consumer branches`: the register of branches."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from msgspec.structs import asdict
from sqlalchemy import Connection, text

from mirrorfeed.consumer.branches.register import (
    Entry,
    NewBranch,
    Registration,
    entries,
    find,
    history,
    register,
    remove,
)
from mirrorfeed.consumer.commands import branch_import
from mirrorfeed.consumer.commands.differences import as_document, print_differences
from mirrorfeed.consumer.commands.options import DatabaseUrlOption, JsonOption
from mirrorfeed.consumer.commands.output import (
    plural,
    print_table,
    shown_cell,
)
from mirrorfeed.consumer.commands.program import reading, ready_engine, transaction
from mirrorfeed.consumer.database import as_json
from mirrorfeed.consumer.dead_letters import store as letters
from mirrorfeed.consumer.errors import RightMissing, UsageError
from mirrorfeed.contract import environment
from mirrorfeed.contract.events import shown
from mirrorfeed.contract.printing import print_json, printable
from mirrorfeed.contract.secrets import mask_secrets

NO_BRANCHES = "no branches are registered: see mirror-consumer branches --help"
MAY_REMOVE = text("SELECT has_table_privilege('branch', 'DELETE')")

app = typer.Typer(
    help="The register: which branches there are.", no_args_is_help=True, rich_markup_mode=None
)

app.add_typer(branch_import.app)

BranchArgument = Annotated[
    str, typer.Argument(metavar="ID|NAME", help="The branch's number or name.")
]


@app.command("list")
def list_branches(
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """List the branches by number, with their URLs. mirror-consumer status says how they are.

    \b
    Example:
      mirror-consumer branches list | grep '~jane/'
    """
    with reading(database_url) as connection:
        branches = entries(connection)
    if as_json_document:
        print_json({"branches": [asdict(branch) for branch in branches]})
    else:
        print_table(
            ("id", "name", "url"),
            [(each.id, each.unique_name, mask_secrets(each.url or "")) for each in branches],
            empty=NO_BRANCHES,
            shorten=("name", "url"),
        )


@app.command()
def show(
    branch: BranchArgument,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show what the database has of one branch, and would lose with it.

    mirror-consumer status says how it is, mirror-consumer history what happened to it.

    \b
    Example:
      mirror-consumer branches show '~jane/project/main'
    """
    with reading(database_url) as connection:
        holding = held(connection, find(connection, branch))
    if as_json_document:
        print_json(as_json(holding))
        return
    for name, value in holding.items():
        if value is not None:
            print(f"{name}: {printable(mask_secrets(shown_cell(value)))}")


@app.command("add")
def add_branch(
    branch_id: Annotated[int, typer.Argument(metavar="ID", help="The branch's number.")],
    unique_name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its name; no other branch may have it.")
    ],
    url: Annotated[str | None, typer.Option(help="Where it is mirrored from.")] = None,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Register one branch. Safe to repeat.

    \b
    Example:
      mirror-consumer branches add 17 '~jane/project/main' \\
        --url https://example.org/main
    """
    with transaction(database_url) as connection:
        register(connection, [NewBranch(branch_id, unique_name, url)])


@app.command("update")
def update_branch(
    branch: BranchArgument,
    url: Annotated[
        str, typer.Option(help="Where it is mirrored from; the empty string for nowhere.")
    ],
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Change the URL of a branch. Safe to repeat.

    \b
    Example:
      mirror-consumer branches update 17 --url https://example.org/main
    """
    with transaction(database_url) as connection:
        found = find(connection, branch, lock=True)
        done = register(connection, [NewBranch(found.id, found.unique_name, url)], update=True)
    show_change(done, as_json_document)


@app.command("rename")
def rename_branch(
    branch: BranchArgument,
    unique_name: Annotated[str, typer.Argument(metavar="NEW_NAME", help="Its new name.")],
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Rename a branch. Events name it by its number, so it keeps its state and its attempts.

    \b
    Example:
      mirror-consumer branches rename 17 '~jane/project/trunk'
    """
    with transaction(database_url) as connection:
        found = find(connection, branch, lock=True)
        done = register(connection, [NewBranch(found.id, unique_name)], update=True)
    show_change(done, as_json_document)


@app.command("remove")
def remove_branches(
    branches: Annotated[
        list[str], typer.Argument(metavar="ID|NAME…", help="Branches by number or name.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Remove branches with all their attempts, for good, as the owner of the tables.

    First let no puller report on them: events that come later become letters (unknown-branch).
    Letters about them stay. So does the ledger: the audit misses nothing.

    \b
    Example:
      mirror-consumer branches remove 17
    """
    engine = ready_engine(database_url)
    with engine.connect() as connection:
        if not connection.scalar(MAY_REMOVE):
            raise RightMissing(
                "this database user may not remove branches: only the owner of the tables may, as"
                " their attempts cannot be brought back"
            )
        found = list(dict.fromkeys(find(connection, branch) for branch in branches))
        holdings = [held(connection, branch) for branch in found]
    if not yes:
        ask(holdings)
    with engine.begin() as connection:
        attempts = remove(connection, found)
    if as_json_document:
        print_json({"attempts": attempts, "branches": [as_json(each) for each in holdings]})
    else:
        print(f"branches removed: {len(found):,}, with {plural(attempts, 'attempt')}")


def held(connection: Connection, branch: Entry) -> dict[str, Any]:
    """A branch, and how much the database has about it."""
    about_it = letters.Selection(branch_id=branch.id)
    return {
        **asdict(branch),
        **asdict(history(connection, branch.id)),
        "dead_letters": letters.count(connection, about_it),
    }


def ask(holdings: Sequence[dict[str, Any]]) -> None:
    """Lets a person confirm a removal. Raises UsageError if there is none, Abort if they refuse."""
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to confirm the removal on: give --yes")
    for each in holdings:
        print(
            f"{each['id']} {shown(each['unique_name'])}: {plural(each['attempts'], 'attempt')},"
            f" {plural(each['dead_letters'], 'dead letter')}",
            file=sys.stderr,
        )
    typer.confirm("Remove with all attempts, for good?", abort=True, err=True)


def show_change(done: Registration, as_json_document: bool) -> None:
    if as_json_document:
        print_json({"branches": as_document(done.changed)})
    elif done.changed:
        print_differences(done.changed)
    else:
        print("it is so already")
