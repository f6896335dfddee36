"""`mirror-publisher`: the commands of puller hosts."""

import json
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mirrorfeed.contract import environment, exit_codes
from mirrorfeed.contract.events import MAX_NAME_LENGTH, check_text, shown
from mirrorfeed.contract.options import AmqpUrlOption
from mirrorfeed.extras import ExtraMissing, needs_extra
from mirrorfeed.publisher.client import BranchStatusClient, default_spool_path
from mirrorfeed.publisher.errors import PublisherError, SpoolFull
from mirrorfeed.publisher.spool import DEFAULT_LIMIT_BYTES, Spool
from mirrorfeed.version import root

if TYPE_CHECKING:
    import ssl

    from mirrorfeed.publisher.command import Ended
    from mirrorfeed.publisher.forward.forwarder import Forwarder

SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_SECONDS = 0.1
AUTHSERVER_PORT = 8999
"""Where the original authserver listened."""

app = typer.Typer(
    help="Reports what a puller host does. Events are safe in the spool when a command returns; a"
    " forwarder sends them to RabbitMQ.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(root)

SpoolOption = Annotated[
    Path | None,
    typer.Option(
        "--spool",
        envvar=environment.SPOOL,
        help="The spool file. [default: /var/spool/mirrorfeed/spool.db where that folder can be"
        " written, else one in the user's state folder]",
        show_default=False,
    ),
]
LimitOption = Annotated[
    int,
    typer.Option(
        "--spool-limit-bytes",
        envvar=environment.SPOOL_LIMIT_BYTES,
        min=1024 * 1024,
        help="The spool takes no event beyond this size.",
    ),
]
BranchArgument = Annotated[int, typer.Argument(metavar="ID", help="The branch's number.")]


@app.command()
def started(
    branch_id: BranchArgument,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Report that the mirroring of a branch begins now.

    \b
    Example:
      mirror-publisher started 17
    """
    spooling_client(spool, spool_limit_bytes).start_mirroring(branch_id)


@app.command()
def completed(
    branch_id: BranchArgument,
    revision: Annotated[str, typer.Argument(help="The revision that is now mirrored.")],
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Report that the mirroring of a branch, reported as started before, succeeded.

    \b
    Example:
      mirror-publisher completed 17 "$(git -C /srv/17 rev-parse HEAD)"
    """
    spooling_client(spool, spool_limit_bytes).mirror_complete(branch_id, revision)


@app.command()
def failed(
    branch_id: BranchArgument,
    reason: Annotated[str, typer.Argument(help="Why, for people.")],
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Report that the mirroring of a branch failed. Passwords in URLs are masked.

    \b
    Example:
      mirror-publisher failed 17 "the remote host is unreachable"
    """
    # An argument need not be UTF-8: better a failure with a reason half readable than none.
    readable = os.fsencode(reason).decode(errors="replace")
    spooling_client(spool, spool_limit_bytes).mirror_failed(branch_id, readable)


@app.command("script-run")
def script_run(
    name: Annotated[str, typer.Argument(help="The script's name.")],
    started: Annotated[str, typer.Option(help="When it began: RFC 3339 with an offset.")],
    completed: Annotated[str, typer.Option(help="When it ended: RFC 3339 with an offset.")],
    hostname: Annotated[
        str | None, typer.Option(help="The host it ran on; this one if not given.")
    ] = None,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Report that a script ran and ended normally.

    \b
    Example:
      mirror-publisher script-run branch-puller --started 2007-07-05T19:32:01Z \\
        --completed 2007-07-05T19:34:24Z
    """
    spooling_client(spool, spool_limit_bytes).record_success(
        name,
        hostname or socket.gethostname(),
        instant_given("--started", started),
        instant_given("--completed", completed),
    )


@app.command()
def run(
    branch: Annotated[int, typer.Option(metavar="ID", help="The branch's number.")],
    command: Annotated[list[str], typer.Argument(help="The mirror command, after --.")],
    revision_command: Annotated[
        str | None,
        typer.Option(help="A shell command that prints the revision that is now mirrored."),
    ] = None,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Run a mirror command, report its start and end, and exit with its code.

    The last line that the command writes to standard error is the reason of a failure.

    \b
    Example:
      mirror-publisher run --branch 17 --revision-command "git -C /srv/17 rev-parse HEAD" \\
        -- git -C /srv/17 fetch --prune
    """
    from mirrorfeed.publisher.command import PassedOnSignals, output_of, run_command

    client = spooling_client(spool, spool_limit_bytes)
    try:
        with PassedOnSignals() as signals, client.mirroring(branch) as attempt:
            ended = run_command(command, signals)
            if ended.failure is not None:
                raise CommandFailed(ended)
            if revision_command is not None:
                attempt.revision_id = output_of(revision_command, signals)
                if attempt.revision_id is None:
                    print(
                        f"mirror-publisher: no revision came from {shown(revision_command)}; the"
                        " branch is reported as mirrored without one",
                        file=sys.stderr,
                    )
    except CommandFailed as error:
        raise typer.Exit(error.ended.exit_code) from None


@app.command("run-script")
def run_script(
    name: Annotated[str, typer.Argument(help="The script's name.")],
    command: Annotated[list[str], typer.Argument(help="The command, after --.")],
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Run a script, report the run where it ends normally, and exit with its code.

    \b
    Example:
      mirror-publisher run-script nightly-gc -- /usr/local/bin/nightly-gc --all
    """
    from mirrorfeed.publisher.command import PassedOnSignals, run_command

    check_text("name", name, at_least=1, at_most=MAX_NAME_LENGTH)
    client = spooling_client(spool, spool_limit_bytes)
    started_at = datetime.now(UTC)
    with PassedOnSignals() as signals:
        ended = run_command(command, signals)
        if ended.failure is not None:
            raise typer.Exit(ended.exit_code)
        completed_at = max(datetime.now(UTC), started_at)
        client.record_success(name, socket.gethostname(), started_at, completed_at)


@app.command()
def forward(
    spool: SpoolOption = None,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    drain: Annotated[bool, typer.Option("--drain", help="End when the spool is empty.")] = False,
    stall_seconds: Annotated[
        float, typer.Option(help="With --drain: give up after so long without progress.", min=0)
    ] = 10.0,
    retry_refused: Annotated[
        bool,
        typer.Option("--retry-refused", help="Try again what the broker refused for good before."),
    ] = False,
) -> None:
    """Send the spool to the broker: a service, or with --drain until it is empty.

    With --drain it exits 3 where the broker cannot be reached, 1 where it does not take an event.

    \b
    Example:
      mirror-publisher forward --drain
    """
    from mirrorfeed.publisher.forward.forwarder import (
        Forwarder,  # for no other command need pika be imported
    )

    log_to_standard_error()
    path = spool_path(spool)
    waiting = Spool(path)
    if retry_refused:
        waiting.restore_refused()
    forwarder = Forwarder(path, amqp_url)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    forwarder.wake()
    try:
        if drain:
            _drain(waiting, forwarder, stall_seconds)
        while not drain and not told_to_end(forwarder):
            if not forwarder.is_running:
                refuse("the forwarder ended unexpectedly, see the log", exit_codes.NOT_MET)
    finally:
        forwarder.stop()


def _drain(spool: Spool, forwarder: "Forwarder", stall_seconds: float) -> None:
    account = spool.status()
    progress_at = time.monotonic()
    while spool.pending(after=0, limit=1) and not told_to_end(forwarder):
        now = time.monotonic()
        before, account = account, spool.status()
        if account.confirmed > before.confirmed or account.refused > before.refused:
            progress_at = now
        if now - progress_at > stall_seconds or not forwarder.is_running:
            if forwarder.holds_spool and not forwarder.reaches_broker:
                refuse(
                    f"the broker cannot be reached, {account.pending} events wait",
                    exit_codes.UNREACHABLE,
                )
            break
    if waiting := spool.status().pending:
        who = "the broker" if forwarder.holds_spool else "the process that forwards this spool"
        refuse(f"{waiting} events wait, which {who} did not take", exit_codes.NOT_MET)


def told_to_end(forwarder: "Forwarder") -> bool:
    """Waits a moment for a signal; needs them to be blocked, so that none interrupts a lock."""
    # sigtimedwait would do both, but Python 3.11's takes a SIGCONT for a signal.
    forwarder.join(POLL_SECONDS)
    return bool(signal.sigpending() & set(SIGNALS))


@app.command()
def authserver(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")
    ] = AUTHSERVER_PORT,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=environment.AUTHSERVER_TOKEN,
            help="What callers must give as password, as in http://any:TOKEN@host/. Better set in"
            " the environment, for an option is seen by all users of the host. [default: none is"
            " asked for]",
            show_default=False,
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="A PEM file with the certificate chain: speak TLS.")
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(help="A PEM file with its key, where that is not in the same file."),
    ] = None,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
) -> None:
    """Serve pullers that report by XML-RPC, as the original authserver did: startMirroring,
    mirrorComplete, mirrorFailed and recordSuccess, at any path.

    A call is answered with True once its event is in the spool, from where it is sent to the
    broker. SIGTERM ends it after the calls in hand.

    \b
    Examples:
      mirror-publisher authserver
      mirror-publisher authserver --host 0.0.0.0 --tls-certificate chain.pem --tls-key key.pem
    """
    # For no other command need these be imported.
    with needs_extra("authserver"):
        from mirrorfeed.publisher.authserver.server import Authserver
    from mirrorfeed.publisher.forward.forwarder import Forwarder

    # Of an empty variable typer says nothing, and the door would stand open unnoticed.
    if token == "" or (token is None and environment.AUTHSERVER_TOKEN in os.environ):
        refuse(f"the token is empty: put one into {environment.AUTHSERVER_TOKEN}, or unset it")
    log_to_standard_error()
    forwarder = Forwarder(spool_path(spool), amqp_url)
    tls = tls_context(tls_certificate, tls_key)
    server = Authserver(spooling_client(spool, spool_limit_bytes), token=token, tls=tls)
    for number in SIGNALS:
        signal.signal(number, server.handle_exit)
    forwarder.wake()
    try:
        server.listen(host, port)
    except OSError as error:
        refuse(
            f"cannot listen on {host} port {port}: {error.strerror}; give another --host or --port"
        )
    finally:
        forwarder.stop()


def tls_context(certificate: Path | None, key: Path | None) -> "ssl.SSLContext | None":
    import ssl

    if certificate is None:
        if key is not None:
            refuse("--tls-key needs its certificate: give --tls-certificate, too")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")  # an encrypted key: do not ask
    except (OSError, ValueError) as error:
        refuse(
            f"no TLS with the certificate {certificate} and the key {key or certificate}: {error};"
            " give PEM files that belong together, the key without a passphrase"
        )
    return context


@app.command()
def status(
    spool: SpoolOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what the spool has taken, what the broker has confirmed and what still waits.

    \b
    Example:
      mirror-publisher status --json
    """
    account = asdict(Spool(spool_path(spool), appends=False).status())
    if as_json:
        print(json.dumps(account))
        return
    for name, value in account.items():
        print(f"{name.replace('_', ' '):24}{'-' if value is None else value}")


def main() -> None:
    """The console script. A bad argument exits 2, a full spool 1; both say what to do."""
    try:
        app()
    except SpoolFull as error:
        refuse(str(error), exit_codes.NOT_MET)
    except (PublisherError, ExtraMissing, ValueError) as error:
        refuse(str(error))


def refuse(message: str, exit_code: int = exit_codes.USAGE) -> NoReturn:
    print(f"mirror-publisher: {message}", file=sys.stderr)
    sys.exit(exit_code)


def log_to_standard_error() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # its troubles are reported as ours


def spool_path(given: Path | None) -> Path:
    return given or default_spool_path()


def spooling_client(spool: Path | None, limit_bytes: int) -> BranchStatusClient:
    return BranchStatusClient(spool_path(spool), limit_bytes=limit_bytes, forward=False)


def instant_given(option: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        refuse(f"{option} {text!r} is no RFC 3339 time such as 2007-07-05T19:32:01Z")


class CommandFailed(Exception):
    """The mirror command did not succeed; its text is the reason that is reported."""

    def __init__(self, ended: "Ended") -> None:
        super().__init__(ended.failure)
        self.ended = ended
