"""`mirror-publisher forward`: the service that sends the spool to the broker."""

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from mirrorfeed.contract import environment, exit_codes
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.ending import ended_by
from mirrorfeed.contract.logs import LogFormat, LogLevel, log_to_standard_error
from mirrorfeed.contract.options import (
    AmqpUrlOption,
    HttpOption,
    LogFormatOption,
    LogLevelOption,
)
from mirrorfeed.contract.tracing import spans_of
from mirrorfeed.publisher.commands.options import LimitOption, SpoolOption, spool_path
from mirrorfeed.publisher.commands.program import PROGRAM, SIGNALS, refuse
from mirrorfeed.publisher.spool import DEFAULT_LIMIT_BYTES, Spool

if TYPE_CHECKING:
    from mirrorfeed.publisher.forward.forwarder import Forwarder

POLL_SECONDS = 0.1
"""How often a drain looks whether the spool is empty."""

app = typer.Typer()


@app.command()
def forward(
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    drain: Annotated[bool, typer.Option("--drain", help="End when the spool is empty.")] = False,
    stall_seconds: Annotated[
        float, typer.Option(help="With --drain: give up after this long without progress.", min=0)
    ] = 10.0,
    heartbeat_seconds: Annotated[
        float,
        typer.Option(
            "--heartbeat-seconds",
            envvar=environment.HEARTBEAT_SECONDS,
            min=0,
            help="Send a heartbeat if the spool was quiet for this long; 0 means never.",
        ),
    ] = 3600.0,
    keep: Annotated[
        str,
        typer.Option(
            envvar=environment.KEEP,
            metavar="DURATION",
            help="Keep what the broker has confirmed for this long, for mirror-publisher resend; 0s"
            " keeps nothing.",
        ),
    ] = "7d",
    keep_limit_bytes: Annotated[
        int,
        typer.Option(
            envvar=environment.KEEP_LIMIT_BYTES,
            min=64 * 1024**2,
            help="Keep no more than this; the oldest goes first.",
        ),
    ] = 256 * 1024**2,
    retry_refused: Annotated[
        bool,
        typer.Option("--retry-refused", help="First retry events refused for good by the broker."),
    ] = False,
    http: HttpOption = None,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Send the spool to the broker, as a service, or with --drain until it is empty.

    With --drain it exits 3 if the broker cannot be reached, and 1 if it does not take an event.

    \b
    Example:
      mirror-publisher forward --drain
    """
    # No other command needs to import these.
    from mirrorfeed.contract.supervision import TELL_SECONDS, Supervisor
    from mirrorfeed.publisher.forward.forwarder import Forwarder
    from mirrorfeed.publisher.forward.heartbeat import Heartbeats

    log_to_standard_error(log_format, log_level)
    path = spool_path(spool)
    Heartbeats(path, heartbeat_seconds).beat_if_quiet()  # before anything opens the spool
    waiting = Spool(path, limit_bytes=spool_limit_bytes)
    if retry_refused:
        waiting.restore_refused()
    told_to_end = ended_by(SIGNALS)
    forwarder = Forwarder(
        path,
        amqp_url,
        heartbeat_seconds=heartbeat_seconds,
        keep_seconds=duration(keep).total_seconds(),
        keep_limit_bytes=keep_limit_bytes,
        spans=spans_of(PROGRAM),
    )
    supervisor = Supervisor(forwarder)
    with ExitStack() as stack:
        # A drain may find the variable of a service that has the port.
        if http is not None and not drain:
            from mirrorfeed.contract.probe_server import serving
            from mirrorfeed.contract.probes import Probes
            from mirrorfeed.publisher.metrics import ForwarderMetrics, cached_account

            account = stack.enter_context(cached_account(path, spool_limit_bytes))
            probes = Probes(forwarder, [ForwarderMetrics(forwarder, account)])
            stack.enter_context(serving(http, probes))
        stack.callback(forwarder.stop)
        forwarder.wake()
        if drain:
            _drain(waiting, forwarder, stall_seconds, told_to_end)
        while not drain and not told_to_end.wait(TELL_SECONDS):
            supervisor.tell()
            if not forwarder.is_running:
                refuse("the forwarder ended unexpectedly; see the log", exit_codes.NOT_MET)
        supervisor.stopping()


def _drain(
    spool: Spool, forwarder: "Forwarder", stall_seconds: float, told_to_end: threading.Event
) -> None:
    account = spool.status()
    progress_at = time.monotonic()
    while spool.pending(after=0, limit=1) and not told_to_end.wait(POLL_SECONDS):
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
        who = "the broker" if forwarder.holds_spool else forwarder.who_holds_spool
        refuse(f"events that {who} did not take: {waiting}", exit_codes.NOT_MET)
