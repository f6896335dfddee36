"""`mirror-publisher`: what a puller host types."""

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
"""The port of the original authserver."""

app = typer.Typer(
    help="Reports what a puller host does. When a command returns, its event is safe in the spool;"
    " a forwarder sends it to RabbitMQ.",
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
        help="The spool file. [default: /var/spool/mirrorfeed/spool.db if you can write to that"
        " folder, else one in your state folder]",
        show_default=False,
    ),
]
LimitOption = Annotated[
    int,
    typer.Option(
        "--spool-limit-bytes",
        envvar=environment.SPOOL_LIMIT_BYTES,
        min=1024 * 1024,
        help="The spool takes no more events once it has this size.",
    ),
]
BranchArgument = Annotated[int, typer.Argument(metavar="ID", help="The branch's number.")]


@app.command()
def started(
    branch_id: BranchArgument,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Report that a mirror attempt of a branch begins now.

    \b
    Example:
      mirror-publisher started 17
    """
    spooling_client(spool, spool_limit_bytes).start_mirroring(branch_id)


@app.command()
def completed(
    branch_id: BranchArgument,
    revision: Annotated[str, typer.Argument(help="The revision that is mirrored now.")],
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Report that the attempt reported with `started` succeeded.

    \b
    Example:
      mirror-publisher completed 17 "$(git -C /srv/17 rev-parse HEAD)"
    """
    spooling_client(spool, spool_limit_bytes).mirror_complete(branch_id, revision)


@app.command()
def failed(
    branch_id: BranchArgument,
    reason: Annotated[str, typer.Argument(help="Why, in words for people.")],
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Report that a mirror attempt of a branch failed. Passwords in URLs are masked.

    \b
    Example:
      mirror-publisher failed 17 "the remote host is unreachable"
    """
    # An argument need not be UTF-8: a half readable reason is better than no report.
    readable = os.fsencode(reason).decode(errors="replace")
    spooling_client(spool, spool_limit_bytes).mirror_failed(branch_id, readable)


@app.command("script-run")
def script_run(
    name: Annotated[str, typer.Argument(help="The script's name.")],
    started: Annotated[str, typer.Option(help="When it began: RFC 3339 with an offset.")],
    completed: Annotated[str, typer.Option(help="When it ended: RFC 3339 with an offset.")],
    hostname: Annotated[
        str | None, typer.Option(help="The host it ran on. [default: this host]")
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
        typer.Option(help="A shell command that prints the revision that is mirrored now."),
    ] = None,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
) -> None:
    """Run a mirror command, report its start and end, and exit with its code.

    If it fails, the last line it wrote to standard error is reported as the reason.

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
                        f"mirror-publisher: {shown(revision_command)} printed no revision; the"
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
    """Run a script, report the run if it ends normally, and exit with its code.

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
        float, typer.Option(help="With --drain: give up after this long without progress.", min=0)
    ] = 10.0,
    retry_refused: Annotated[
        bool,
        typer.Option("--retry-refused", help="First retry events refused for good by the broker."),
    ] = False,
) -> None:
    """Send the spool to the broker, as a service, or with --drain until it is empty.

    With --drain it exits 3 if the broker cannot be reached, and 1 if it does not take an event.

    \b
    Example:
      mirror-publisher forward --drain
    """
    from mirrorfeed.publisher.forward.forwarder import (
        Forwarder,  # no other command needs to import pika
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
                refuse("the forwarder ended unexpectedly; see the log", exit_codes.NOT_MET)
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
                    f"the broker cannot be reached; events waiting: {account.pending}",
                    exit_codes.UNREACHABLE,
                )
            break
    if waiting := spool.status().pending:
        who = "the broker" if forwarder.holds_spool else "the process that forwards this spool"
        refuse(f"events that {who} did not take: {waiting}", exit_codes.NOT_MET)


def told_to_end(forwarder: "Forwarder") -> bool:
    """Waits a moment for a signal. Signals must be blocked, so that none interrupts a lock."""
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
            help="The password that callers must give, as in http://any:TOKEN@host/. Better set it"
            " in the environment, because every user of the host can see an option. [default: no"
            " password]",
            show_default=False,
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="Speak TLS, with the certificate chain in this PEM file.")
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(help="The PEM file with its key, if that is not in the same file."),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Listen for other hosts without a token and without TLS."),
    ] = False,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
) -> None:
    """Serve pullers that report by XML-RPC, as the original authserver did: startMirroring,
    mirrorComplete, mirrorFailed and recordSuccess, at any path.

    A call is answered with True once its event is in the spool; from there it is sent to the
    broker. On SIGTERM it finishes the calls it has and exits.

    To listen for other hosts it needs a token, or TLS, or --insecure.

    \b
    Examples:
      mirror-publisher authserver
      mirror-publisher authserver --host 0.0.0.0 --tls-certificate chain.pem --tls-key key.pem
    """
    # No other command needs to import these.
    with needs_extra("authserver"):
        from mirrorfeed.publisher.authserver.callers import is_loopback
        from mirrorfeed.publisher.authserver.server import Authserver
    from mirrorfeed.publisher.forward.forwarder import Forwarder

    # Typer ignores an empty variable, and the server would be open without anybody noticing.
    if token == "" or (token is None and environment.AUTHSERVER_TOKEN in os.environ):
        refuse(f"the token is empty: set {environment.AUTHSERVER_TOKEN} to one, or unset it")
    if not (is_loopback(host) or token or tls_certificate or insecure):
        refuse(
            f"with --host {host} other hosts could report anything, and nobody asks who they are:"
            f" set {environment.AUTHSERVER_TOKEN}, and give --tls-certificate, so that the token"
            " cannot be overheard; or give --insecure if that network can be trusted"
        )
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
            refuse("--tls-key needs a certificate: give --tls-certificate too")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")  # an encrypted key: do not ask
    except (OSError, ValueError) as error:
        refuse(
            f"cannot use the certificate {certificate} with the key {key or certificate}: {error};"
            " give PEM files that belong together, the key without a passphrase"
        )
    return context


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
        print(json.dumps(account))
        return
    for name, value in account.items():
        print(f"{name.replace('_', ' '):24}{'-' if value is None else value}")


def main() -> None:
    """The console script. Exits 2 for a bad argument and 1 for a full spool, saying what to do."""
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
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # we report its problems ourselves


def spool_path(given: Path | None) -> Path:
    return given or default_spool_path()


def spooling_client(spool: Path | None, limit_bytes: int) -> BranchStatusClient:
    return BranchStatusClient(spool_path(spool), limit_bytes=limit_bytes, forward=False)


def instant_given(option: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        refuse(f"{option} {text!r} is not an RFC 3339 time such as 2007-07-05T19:32:01Z")


class CommandFailed(Exception):
    """The mirror command did not succeed; the text is the reason to report."""

    def __init__(self, ended: "Ended") -> None:
        super().__init__(ended.failure)
        self.ended = ended
