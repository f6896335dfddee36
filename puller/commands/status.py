"""`mirror-puller status`: how the mirrors are, from what the puller has noted."""

import time
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mirrorfeed.contract.printing import print_json, printable
from mirrorfeed.puller.branch_list import read_branch_list
from mirrorfeed.puller.commands import options
from mirrorfeed.puller.commands.text import age, aligned, bytes_shown, plural
from mirrorfeed.puller.errors import BadBranchList, PullerError
from mirrorfeed.puller.folder import Folder
from mirrorfeed.puller.state import BranchState, State

app = typer.Typer()


@app.command()
def status(
    into: options.IntoOption = options.DEFAULT_INTO,
    list_path: options.ListOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what is due, running and failing, and how large the mirrors are.

    \b
    Example:
      mirror-puller status --into /srv/mirrors
    """
    folder = Folder(into, makes=False)
    with State(folder.state, reads_only=True) as state:
        known = state.branches()
        hosts = state.hosts()
        try:
            found = read_branch_list(options.noted_list(state, list_path))
            listed, unmirrored, trouble = found.branches, found.unmirrored, None
        except BadBranchList as error:
            listed, unmirrored, trouble = {}, frozenset(), str(error)
        except PullerError as error:
            if not known:
                raise
            listed, unmirrored, trouble = {}, frozenset(), str(error)
    now = time.time()
    names = {each: branch.name for each, branch in listed.items()}
    ids = sorted(names.keys() or known.keys())
    rows = [row_of(each, known.get(each) or BranchState(), names.get(each), now) for each in ids]
    unlisted = len(known.keys() - set(ids) - unmirrored)
    classes = Counter(row["class"] for row in rows if row["class"])
    document = {
        "into": str(folder.path),
        "list_error": trouble,
        "branches": rows,
        "due": sum(row["is_due"] for row in rows),
        "running": sum(row["running_since"] is not None for row in rows),
        "failing": sum(classes.values()),
        "classes": dict(classes.most_common()),
        "not_in_the_list": unlisted,
        "size_bytes": sum(row["size_bytes"] for row in rows),
        "paused_hosts": {
            name: instant(host.paused_until)
            for name, host in hosts.items()
            if host.paused_until > now
        },
    }
    if as_json:
        print_json(document)
    else:
        print_status(document, now)


def row_of(branch_id: int, known: BranchState, name: str | None, now: float) -> dict[str, Any]:
    return {
        "id": branch_id,
        "unique_name": name if name is not None else known.name,
        "is_due": known.running_since is None and known.due_at <= now,
        "due_at": instant(known.due_at),
        "running_since": instant(known.running_since),
        "mirrored_at": instant(known.mirrored_at),
        "revision": known.revision,
        "failures": known.failures,
        "class": known.failure_class,
        "reason": known.reason,
        "size_bytes": known.size_bytes,
    }


def instant(seconds: float | None) -> str | None:
    """In UTC; None for never."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None


def print_status(document: dict[str, Any], now: float) -> None:
    rows = document["branches"]
    counts = [f"{document[each]} {each}" for each in ("due", "running", "failing")]
    print(
        f"{plural(len(rows), 'branch', 'branches')}: {', '.join(counts)};"
        f" mirrors take {bytes_shown(document['size_bytes'])}"
    )
    if document["list_error"]:
        print(f"the list cannot be used: {printable(document['list_error'])}")
    if left := document["not_in_the_list"]:
        print(f"{plural(left, 'branch', 'branches')} left the list (see mirror-puller prune)")
    for host, until in document["paused_hosts"].items():
        print(f"{printable(host)} has asked for less, and is left alone until {until}")
    running = [row for row in rows if row["running_since"]]
    if running:
        print("\nrunning")
        cells = [
            (str(row["id"]), row["unique_name"], age(row["running_since"], now)) for row in running
        ]
        print("\n".join(aligned(cells)))
    failing = [row for row in rows if row["class"]]
    for failure_class, count in document["classes"].items():
        print(f"\n{failure_class}: {count}")
        lines = [
            (
                str(row["id"]),
                row["unique_name"],
                f"{row['failures']} in a row",
                row["reason"].removeprefix(f"{failure_class}: "),
            )
            for row in failing
            if row["class"] == failure_class
        ]
        print("\n".join(aligned(lines)))
