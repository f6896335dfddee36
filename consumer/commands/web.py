"""`mirror-consumer web`: the page, and the lines of those who may see it."""

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from mirrorfeed.consumer.branches.status import STUCK_AFTER
from mirrorfeed.consumer.commands.options import DatabaseUrlOption
from mirrorfeed.consumer.errors import UsageError
from mirrorfeed.consumer.health import STALLED_SECONDS
from mirrorfeed.contract import environment
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.logs import LogFormat, LogLevel, log_to_standard_error
from mirrorfeed.contract.options import AmqpUrlOption, LogFormatOption, LogLevelOption
from mirrorfeed.extras import ExtraMissing, needs_extra

PORT = 8070
USERS = "MIRRORFEED_WEB_USERS"

app = typer.Typer(rich_markup_mode=None)


@app.command()
def web(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")
    ] = PORT,
    users: Annotated[
        Path | None,
        typer.Option(
            envvar=USERS,
            metavar="FILE",
            help="Ask for a name and a password (HTTP basic). Each line of the file is what"
            " `mirror-consumer web-user` prints; it is read again when it changes.",
        ),
    ] = None,
    user_header: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Let in whoever a trusted proxy names in this header, such as X-Remote-User.",
        ),
    ] = None,
    trusted_proxies: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted-proxy",
            metavar="ADDRESS",
            help="An address or network from which that header is believed. Can be repeated.",
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Another name by which the page is called, as by a proxy on this host. Needed"
            " without --users and --user-header; with --user-header, keeps other sites from using a"
            " browser beside the proxy. Can be repeated.",
        ),
    ] = None,
    path_prefix: Annotated[
        str,
        typer.Option(metavar="PATH", help="Below which path a proxy shows it, such as /mirrors."),
    ] = "",
    stuck_after: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="After this long an unfinished attempt counts as stuck."
        ),
    ] = f"{STUCK_AFTER.total_seconds() / 60:.0f}m",
    stale_after: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="After this long without a success a branch is stale."
        ),
    ] = "6h",
    silent_after: Annotated[
        str,
        typer.Option(metavar="DURATION", help="After this long unheard a host is silent."),
    ] = "2h",
    stalled_after: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How long messages may wait in a partition without any being applied.",
        ),
    ] = f"{STALLED_SECONDS:.0f}s",
    operate: Annotated[
        bool,
        typer.Option(
            "--operate",
            help="Let everybody who may see the page also apply, edit and discard letters, accept"
            " missing events and change the number of partitions. The database user needs an"
            " operator's rights.",
        ),
    ] = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Show in a browser how everything is, and why. It only reads: a role that may only read is
    enough, and a standby will do. With --operate one can also put things right.

    It waits for servers that are away, and says so. To listen for other hosts it needs --users, or
    --user-header and --trusted-proxy.

    \b
    Examples:
      mirror-consumer web
      mirror-consumer web --host 0.0.0.0 --users /etc/mirrorfeed/web-users
    """
    try:
        with needs_extra("web"):
            # No other command needs to import these.
            from mirrorfeed.consumer.branches.listing import Patience
            from mirrorfeed.consumer.web.access import Access, is_loopback, networks
            from mirrorfeed.consumer.web.context import Settings
            from mirrorfeed.consumer.web.operator import Operator, operating_engine
            from mirrorfeed.consumer.web.passwords import Users
            from mirrorfeed.consumer.web.reading import page_engine
            from mirrorfeed.consumer.web.server import serve
            from mirrorfeed.consumer.web.watch import Watch
    except ExtraMissing as error:
        raise UsageError(str(error)) from None

    access = Access(
        Users(users) if users else None,
        user_header,
        networks(trusted_proxies or []),
        frozenset(name.lower() for name in names or []),
    )
    if (user_header is None) != (not trusted_proxies):
        raise UsageError("--user-header and --trusted-proxy go together: who may name the user?")
    if access.is_open and not is_loopback(host):
        raise UsageError(
            f"with --host {host} everybody who can reach it could see the page: give --users, or"
            " --user-header and --trusted-proxy"
        )
    log_to_standard_error(log_format, log_level)
    settings = Settings(
        prefix=_prefix(path_prefix),
        patience=Patience(duration(stuck_after), duration(stale_after)),
        silent_after=duration(silent_after),
    )
    engine = page_engine(database_url)
    watch = Watch(engine, amqp_url, stalled_seconds=duration(stalled_after).total_seconds())
    operator = Operator(operating_engine(database_url), amqp_url) if operate else None
    try:
        serve(engine, watch, settings, access, host, port, operator)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror}; give another --host or --port"
        ) from error


@app.command()
def web_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")],
) -> None:
    """Ask for a password, and print the user's line for the file that `web --users` names.

    The password is read from the terminal, or else from standard input. The line has only a hash.

    \b
    Example:
      mirror-consumer web-user jane >> /etc/mirrorfeed/web-users
    """
    from mirrorfeed.consumer.web.passwords import line_of

    if sys.stdin.isatty():
        password = getpass.getpass("Password: ", stream=sys.stderr)
        if getpass.getpass("Again: ", stream=sys.stderr) != password:
            raise UsageError("the two passwords differ: nothing was printed")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise UsageError("the password is empty: give one")
    print(line_of(name, password))


def _prefix(path: str) -> str:
    """Without a slash at its end. Raises UsageError."""
    prefix = path.rstrip("/")
    if prefix and not (prefix.startswith("/") and prefix.isascii() and prefix.isprintable()):
        raise UsageError(f"--path-prefix {path!r} is no path such as /mirrors")
    return prefix
