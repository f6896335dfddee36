"""`mirror-publisher authserver`: the XML-RPC server for pullers of the original system."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirrorfeed.contract import environment
from mirrorfeed.contract.logs import LogFormat, LogLevel, log_to_standard_error
from mirrorfeed.contract.options import (
    AmqpUrlOption,
    LogFormatOption,
    LogLevelOption,
    given_or_in_file,
)
from mirrorfeed.extras import needs_extra
from mirrorfeed.publisher.commands.options import (
    LimitOption,
    SpoolOption,
    spool_path,
    spooling_client,
)
from mirrorfeed.publisher.commands.program import SIGNALS, refuse
from mirrorfeed.publisher.spool import DEFAULT_LIMIT_BYTES

if TYPE_CHECKING:
    import ssl

AUTHSERVER_PORT = 8999
"""The port of the original authserver."""

app = typer.Typer()


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
            callback=given_or_in_file(environment.AUTHSERVER_TOKEN),
            help="The password that callers must give, as in http://any:TOKEN@host/. Every user of"
            " the host can see an option: better set it in the environment, or in a file named by"
            f" {environment.AUTHSERVER_TOKEN}_FILE, which is read again when it changes."
            " [default: no password]",
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
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Serve pullers that report by XML-RPC, as the original authserver did: startMirroring,
    mirrorComplete, mirrorFailed and recordSuccess, at any path.

    A call is answered with True once its event is in the spool; from there it is sent to the
    broker. On SIGTERM it finishes the calls it has and exits. It answers at /-/live, /-/ready and,
    if the token is given, /-/metrics.

    To listen for other hosts it needs a token, or TLS, or --insecure.

    \b
    Examples:
      mirror-publisher authserver
      mirror-publisher authserver --host 0.0.0.0 \\
        --tls-certificate chain.pem --tls-key key.pem
    """
    # No other command needs to import these.
    with needs_extra("authserver"):
        from mirrorfeed.publisher.authserver.callers import is_loopback
        from mirrorfeed.publisher.authserver.server import Authserver
    from mirrorfeed.contract.probes import Probes
    from mirrorfeed.publisher.authserver.condition import Condition
    from mirrorfeed.publisher.forward.forwarder import Forwarder
    from mirrorfeed.publisher.metrics import ForwarderMetrics, cached_account

    # Typer ignores an empty variable, and the server would be open without anybody noticing.
    if token == "" or (token is None and environment.AUTHSERVER_TOKEN in os.environ):
        refuse(f"the token is empty: set {environment.AUTHSERVER_TOKEN} to one, or unset it")
    if not (is_loopback(host) or token or tls_certificate or insecure):
        refuse(
            f"with --host {host} other hosts could report anything, and nobody asks who they are:"
            f" set {environment.AUTHSERVER_TOKEN}, and give --tls-certificate, so that the token"
            " cannot be overheard; or give --insecure if that network can be trusted"
        )
    log_to_standard_error(log_format, log_level)
    path = spool_path(spool)
    forwarder = Forwarder(path, amqp_url)
    tls = tls_context(tls_certificate, tls_key)
    client = spooling_client(spool, spool_limit_bytes)
    account = cached_account(path, spool_limit_bytes)
    condition = Condition(forwarder, account)
    probes = Probes(condition, [ForwarderMetrics(forwarder, account)])
    server = Authserver(client, condition, probes, token=token, tls=tls)
    for number in SIGNALS:
        signal.signal(number, server.handle_exit)
    forwarder.wake()
    try:
        with account:
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
