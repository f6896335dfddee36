"""`mirror-publisher`: what a puller host types."""

import typer

from mirrorfeed.contract import exit_codes
from mirrorfeed.contract.program import run_program
from mirrorfeed.extras import ExtraMissing
from mirrorfeed.publisher.commands import authserver, forward, report, resend, status, wrap
from mirrorfeed.publisher.commands.program import PROGRAM, Refused
from mirrorfeed.publisher.errors import PublisherError, SpoolFull
from mirrorfeed.version import root

app = typer.Typer(
    help="Reports what a puller host does. When a command returns, its event is safe in the spool;"
    " a forwarder sends it to RabbitMQ.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(root)
for each in (report, wrap, forward, resend, authserver, status):
    app.add_typer(each.app)


def main() -> None:
    """The console script."""
    run_program(app, PROGRAM, meaning)


def meaning(error: Exception) -> tuple[str, int] | None:
    """What an error says to the command's caller, and the exit code; None if it is a bug."""
    match error:
        case Refused():
            return str(error), error.exit_code
        case SpoolFull():
            return str(error), exit_codes.NOT_MET
        case PublisherError() | ExtraMissing() | ValueError():
            return str(error), exit_codes.USAGE
        case _:
            return None
