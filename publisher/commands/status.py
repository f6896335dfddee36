"""`mirror-publisher status`: the account of a spool."""

from dataclasses import asdict
from typing import Annotated

import typer

from mirrorfeed.contract.printing import print_json
from mirrorfeed.publisher.commands.options import SpoolOption, spool_path
from mirrorfeed.publisher.spool import Spool

app = typer.Typer()


@app.command()
def status(
    spool: SpoolOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what the spool has taken, what the broker has confirmed and what is still waiting.

    \b
    Example:
      mirror-publisher status --json
    """
    account = asdict(Spool(spool_path(spool), appends=False).status())
    if as_json:
        print_json(account)
        return
    for name, value in account.items():
        print(f"{name.replace('_', ' '):24}{'-' if value is None else value}")
