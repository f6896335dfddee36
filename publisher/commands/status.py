"""`mirror-publisher status`: the account of a spool, and whether anybody sends it."""

import os
import pwd
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mirrorfeed.contract import exit_codes
from mirrorfeed.contract.printing import print_json, printable
from mirrorfeed.contract.wire import timestamp
from mirrorfeed.publisher.account import read_account
from mirrorfeed.publisher.client import SYSTEM_SPOOL
from mirrorfeed.publisher.commands.options import LimitOption, SpoolOption, spool_path
from mirrorfeed.publisher.commands.program import refuse
from mirrorfeed.publisher.errors import SpoolError
from mirrorfeed.publisher.forward.lock import who_forwards
from mirrorfeed.publisher.spool import DEFAULT_LIMIT_BYTES

STATE_SPOOL = Path(".local/state/mirrorfeed/spool.db")
"""In a user's home, if they have not said otherwise."""

app = typer.Typer()


@app.command()
def status(
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
    everywhere: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Show every spool in the usual places: the one named, the system's, and those of"
            " all users whose folders you may read.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    textfile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Print nothing, but write the spool's metrics to FILE, in the folder that"
            " node_exporter reads (--collector.textfile.directory).",
        ),
    ] = None,
) -> None:
    """Show what the spool has taken, what the broker has confirmed, what is still waiting, and
    which process sends it.

    \b
    Examples:
      mirror-publisher status --json
      sudo mirror-publisher status --all
      mirror-publisher status --textfile mirrorfeed.prom
    """
    if textfile is not None:
        if everywhere or as_json:
            refuse("--textfile excludes --all and --json: it writes the metrics of one spool")
        # Nothing else here needs to import this.
        from mirrorfeed.publisher.metrics import write_textfile

        write_textfile(textfile, read_account(spool_path(spool), spool_limit_bytes))
        return
    if not everywhere:
        account = account_of(spool_path(spool), spool_limit_bytes)
        print_json(account) if as_json else print_account(account)
        return
    accounts = []
    for path in usual_places(spool):
        try:
            accounts.append(account_of(path, spool_limit_bytes))
        except SpoolError as error:
            accounts.append({"path": str(path), "error": str(error)})
    if as_json:
        print_json({"spools": accounts})
    elif not accounts:
        refuse("there is no spool in the usual places", exit_codes.NOT_MET)
    for number, account in enumerate(() if as_json else accounts):
        if number:
            print()
        print_account(account)


def account_of(path: Path, limit_bytes: int) -> dict[str, Any]:
    """Raises SpoolError."""
    account = read_account(path, limit_bytes)
    confirmed_at = account.status.last_confirmed_at
    try:
        forwarding = who_forwards(path)
    except OSError as error:
        raise SpoolError(f"cannot tell who forwards the spool {path}: {error}") from error
    return {
        **asdict(account.status),
        "last_confirmed_at": None if confirmed_at is None else timestamp(confirmed_at),
        "path": str(path),
        "size_bytes": account.size_bytes,
        "limit_bytes": account.limit_bytes,
        "is_forwarded": forwarding.is_on,
        "forwarder_pid": forwarding.process,
    }


def usual_places(named: Path | None) -> list[Path]:
    """The spools that are there, each once."""
    homes = [Path(user.pw_dir) for user in pwd.getpwall()]
    places = [spool_path(named), SYSTEM_SPOOL, *(home / STATE_SPOOL for home in homes)]
    return [path for path in dict.fromkeys(places) if os.path.lexists(path)]


def print_account(account: dict[str, Any]) -> None:
    for name, value in account.items():
        print(f"{name.replace('_', ' '):24}{'-' if value is None else printable(str(value))}")
