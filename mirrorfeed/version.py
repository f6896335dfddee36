"""`--version`, the same for each command."""

from typing import Annotated

import typer


def print_version(context: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version  # slow: only --version should pay for it

    print(f"{context.info_name} {version('mirrorfeed')}")
    raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version",
        callback=print_version,
        is_eager=True,
        help="Show the version and exit.",
    ),
]


def root(version: VersionOption = False) -> None:
    """Runs before an app's commands; install it with `app.callback()(root)`."""
