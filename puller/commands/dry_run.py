"""`mirror-puller dry-run`: what `run` would do."""

import time
from typing import Annotated

import typer

from mirrorfeed.contract.printing import printable
from mirrorfeed.puller.branch_list import Branch, read_branch_list
from mirrorfeed.puller.commands import options
from mirrorfeed.puller.commands.text import aligned, plural
from mirrorfeed.puller.folder import Folder
from mirrorfeed.puller.reasons import MirrorFailure
from mirrorfeed.puller.settings import Settings
from mirrorfeed.puller.state import State
from mirrorfeed.puller.urls import place_of

app = typer.Typer()


@app.command("dry-run")
def dry_run(
    into: options.IntoOption = options.DEFAULT_INTO,
    list_path: options.ListOption = None,
    all_due: Annotated[bool, typer.Option("--all", help="As with run --all.")] = False,
    allow_protocol: options.ProtocolOption = None,
) -> None:
    """Show which branches would be mirrored now, in which order, and which are refused.

    Reads the list and the notes, and nothing else: no server is asked, nothing is changed.

    \b
    Example:
      mirror-puller dry-run --list branches.csv --into /srv/mirrors
    """
    from mirrorfeed.puller.accounts import due_now

    folder = Folder(into, makes=False)
    with State(folder.state, reads_only=True) as state:
        path = options.noted_list(state, list_path)
        settings = options.noted_settings(state).with_given(
            protocols=options.protocols(allow_protocol)
        )
        known, hosts = state.branches(), state.hosts()
    listed = read_branch_list(path)
    now = time.time()
    due = due_now(listed.branches.values(), known, settings, now)
    branches = [branch for _, branch in due]
    if all_due:
        branches = list(listed.branches.values())
    paused = {name for name, host in hosts.items() if host.paused_until > now}
    cells = [
        (str(branch.id), branch.name, what_with(branch, folder, settings, paused))
        for branch in branches
    ]
    print(
        f"{plural(len(listed.branches), 'branch', 'branches')} in {printable(str(path))},"
        f" {len(branches)} would be mirrored now"
    )
    if cells:
        print("\n".join(aligned(cells)))


def what_with(branch: Branch, folder: Folder, settings: Settings, paused: set[str]) -> str:
    """What would be done with it, in a few words."""
    try:
        place = place_of(branch.url, branch.vcs, settings.protocols)
    except MirrorFailure as failure:
        return failure.reason
    if place.host in paused:
        return f"waits: {place.host} is left alone"
    does = "look and fetch" if folder.mirror(branch.id, branch.vcs).exists() else "clone"
    return f"{does} {branch.url}"
