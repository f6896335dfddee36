"""The option that commands of both sides have, and how a URL is found in a file."""

from collections.abc import Callable
from typing import Annotated

import typer

from mirrorfeed.contract import environment


def given_or_in_file(variable: str) -> Callable[[typer.Context, typer.CallbackParam, str], str]:
    """For an option: the URL that it or its variable gives, else that of a file."""

    def choose(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
        source = context.get_parameter_source(parameter.name or "")
        is_given = source is not None and source.name != "DEFAULT"
        return value if is_given else environment.url_in_file(variable) or value

    return choose


AmqpUrlOption = Annotated[
    str,
    typer.Option(
        "--amqp-url",
        envvar=environment.AMQP_URL,
        callback=given_or_in_file(environment.AMQP_URL),
        help="The broker; several addresses have commas between them, and the next is taken where"
        f" one does not answer. Or in a file that {environment.AMQP_URL}_FILE names.",
    ),
]
