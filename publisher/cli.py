"""`mirror-publisher`: what a puller host types."""

import typer

from mirrorfeed.contract import exit_codes
from mirrorfeed.extras import ExtraMissing
from mirrorfeed.publisher.commands import authserver, forward, report, status, wrap
from mirrorfeed.publisher.commands.program import refuse
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
for each in (report, wrap, forward, authserver, status):
    app.add_typer(each.app)


def main() -> None:
    """The console script. Exits 2 for a bad argument and 1 for a full spool, saying what to do."""
    try:
        app()
    except SpoolFull as error:
        refuse(str(error), exit_codes.NOT_MET)
    except (PublisherError, ExtraMissing, ValueError) as error:
        refuse(str(error))
