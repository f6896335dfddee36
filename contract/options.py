"""The options that both sides' commands share, and how one is read from a file."""

from collections.abc import Callable
from typing import Annotated

import typer

from mirrorfeed.contract import environment
from mirrorfeed.contract.logs import LogFormat, LogLevel


def given_or_in_file(
    variable: str,
) -> Callable[[typer.Context, typer.CallbackParam, str | None], str | None]:
    """For an option: what it or its variable says, else what is in a file."""

    def choose(
        context: typer.Context, parameter: typer.CallbackParam, value: str | None
    ) -> str | None:
        source = context.get_parameter_source(parameter.name or "")
        is_given = source is not None and source.name != "DEFAULT"
        return value if is_given else environment.in_file(variable) or value

    return choose


AmqpUrlOption = Annotated[
    str,
    typer.Option(
        "--amqp-url",
        envvar=environment.AMQP_URL,
        callback=given_or_in_file(environment.AMQP_URL),
        help="The broker's URL. Separate several with commas; if one does not answer, the next is"
        f" tried. Can also be in a file named by {environment.AMQP_URL}_FILE, which each connection"
        " reads again.",
    ),
]

HttpOption = Annotated[
    str | None,
    typer.Option(
        "--http",
        envvar=environment.HTTP,
        metavar="HOST:PORT",
        help="As a service, answer at /live, /ready and /metrics there, such as 127.0.0.1:9470.",
    ),
]
LogFormatOption = Annotated[
    LogFormat,
    typer.Option(
        "--log-format", envvar=environment.LOG_FORMAT, help="How to log on standard error."
    ),
]
LogLevelOption = Annotated[
    LogLevel,
    typer.Option("--log-level", envvar=environment.LOG_LEVEL, help="Log nothing less important."),
]
