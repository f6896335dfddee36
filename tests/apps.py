"""Our commands, as typer knows them."""

from typing import Any

import typer

from mirrorfeed.consumer.commands import main, replay
from mirrorfeed.contract.program import complete_help
from mirrorfeed.publisher import cli
from mirrorfeed.puller import cli as puller


def _completed(app: typer.Typer) -> Any:
    command = typer.main.get_command(app)
    complete_help(command)
    return command


COMMANDS = {
    "mirror-consumer": _completed(main.app),
    "mirror-publisher": _completed(cli.app),
    "mirror-puller": _completed(puller.app),
    "mirror-replay": _completed(replay.app),
}
