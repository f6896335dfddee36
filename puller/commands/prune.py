"""`mirror-puller prune`: removes mirrors whose branches left the list. Nothing else removes any."""

from pathlib import Path
from typing import Annotated

import typer

from mirrorfeed.contract.printing import printable
from mirrorfeed.puller.branch_list import BranchList, read_branch_list
from mirrorfeed.puller.commands import options
from mirrorfeed.puller.commands.text import bytes_shown, plural
from mirrorfeed.puller.errors import NotMet
from mirrorfeed.puller.folder import Folder, MirrorInUse, size_of
from mirrorfeed.puller.state import State

app = typer.Typer()


@app.command()
def prune(
    into: options.IntoOption = options.DEFAULT_INTO,
    list_path: options.ListOption = None,
    at_most: Annotated[
        float,
        typer.Option(
            "--at-most",
            metavar="PERCENT",
            min=0,
            max=100,
            help="Remove nothing if more of the mirrors than this would go; one may always go.",
        ),
    ] = 5.0,
    is_dry: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
) -> None:
    """Remove mirrors of branches that are not in the list any more.

    \b
    Example:
      mirror-puller prune --dry-run
    """
    folder = Folder(into, makes=not is_dry)
    with State(folder.state, reads_only=is_dry) as state:
        path = options.noted_list(state, list_path)
        listed = read_branch_list(path)
        mirrors = folder.mirrors()
        gone = {
            branch_id: paths
            for branch_id, found in mirrors.items()
            if (paths := [each for each in found if not is_listed(listed, branch_id, each)])
        }
        if len(gone) > max(1, len(mirrors) * at_most / 100) and not is_dry:
            raise NotMet(
                f"{len(gone)} of {len(mirrors)} mirrors are not those of branches in"
                f" {path}: that is more than {at_most:g} %, and nothing was removed. Look at"
                " mirror-puller prune --dry-run; if it is right, say --at-most 100"
            )
        known = state.branches()
        removed_bytes = 0
        for branch_id, paths in gone.items():
            name = known[branch_id].name if branch_id in known else ""
            size = sum(map(size_of, paths))
            removed_bytes += size
            if not is_dry:
                try:
                    with folder.only_user_of(branch_id):
                        for mirror in paths:
                            folder.remove(mirror)
                        if branch_id not in listed.ids:
                            state.forget(branch_id)
                except MirrorInUse as error:
                    raise NotMet(f"{error}; try again when that is over") from error
                except OSError as error:
                    raise NotMet(f"the mirror of branch {branch_id} cannot go: {error}") from error
            print(f"{branch_id} {printable(name)} {bytes_shown(size)}")
        for branch_id in known.keys() - listed.ids - mirrors.keys():
            if not is_dry:
                state.forget(branch_id)
    did = "would go" if is_dry else "removed"
    print(f"{plural(len(gone), 'mirror', 'mirrors')} {did}, {bytes_shown(removed_bytes)}")


def is_listed(listed: BranchList, branch_id: int, mirror: Path) -> bool:
    """Whether it is the mirror of a branch in the list, kept in what that is kept in. One that is
    not mirrored at present keeps what it has."""
    branch = listed.branches.get(branch_id)
    return branch_id in listed.unmirrored or (
        branch is not None and mirror.suffix == f".{branch.vcs}"
    )
