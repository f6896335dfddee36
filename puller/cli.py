"""`mirror-puller`: mirrors a list of branches."""

import typer

from mirrorfeed.contract import exit_codes
from mirrorfeed.contract.program import run_program
from mirrorfeed.publisher.errors import PublisherError, SpoolFull
from mirrorfeed.puller.commands import dry_run, import_manifest, prune, run, status, sync
from mirrorfeed.puller.errors import FolderInUse, NotMet, PullerError
from mirrorfeed.version import root

PROGRAM = "mirror-puller"

app = typer.Typer(
    help="Mirrors a list of branches, and reports every attempt: a list in, bare mirrors on disk,"
    " and a branch table that tells the truth.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(root)
for each in (run, sync, status, dry_run, prune, import_manifest):
    app.add_typer(each.app)


def main() -> None:
    """The console script."""
    run_program(app, PROGRAM, meaning)


def meaning(error: Exception) -> tuple[str, int] | None:
    """What an error says to the command's user, and the exit code; None if it is a bug."""
    match error:
        case NotMet() | FolderInUse() | SpoolFull():
            return str(error), exit_codes.NOT_MET
        case PullerError() | PublisherError() | ValueError():
            return str(error), exit_codes.USAGE
        case _:
            return None
