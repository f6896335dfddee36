"""`mirror-puller run`: mirrors what is due, for ever or once."""

import logging
import signal
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from mirrorfeed.contract import environment, exit_codes
from mirrorfeed.contract.logs import LogFormat, LogLevel, log_to_standard_error
from mirrorfeed.contract.options import (
    AmqpUrlOption,
    HttpOption,
    LogFormatOption,
    LogLevelOption,
)
from mirrorfeed.publisher.commands.options import LimitOption, SpoolOption, spool_path
from mirrorfeed.publisher.spool import DEFAULT_LIMIT_BYTES
from mirrorfeed.puller.commands import options
from mirrorfeed.puller.commands.client import check_programs, open_reports

FLUSH_SECONDS = 5.0
"""How long to wait in the end until the broker has what was reported."""

logger = logging.getLogger(__name__)
app = typer.Typer()


@app.command()
def run(
    list_path: Annotated[
        Path,
        typer.Argument(
            metavar="LIST.csv",
            envvar=environment.PULLER_LIST,
            help="CSV with a heading: id, unique_name, url and, if you like, vcs, interval, refs.",
        ),
    ],
    into: options.IntoOption = options.DEFAULT_INTO,
    once: Annotated[
        bool, typer.Option("--once", help="Mirror what is due, then end: 1 if any failed.")
    ] = False,
    all_due: Annotated[
        bool, typer.Option("--all", help="Begin with every branch, due or not.")
    ] = False,
    jobs: options.JobsOption = None,
    per_host: options.PerHostOption = None,
    interval: options.IntervalOption = None,
    allow_protocol: options.ProtocolOption = None,
    stall_timeout: options.StallOption = None,
    timeout: options.TimeoutOption = None,
    stop_timeout: options.StopOption = None,
    max_mirror_bytes: options.MaxMirrorOption = None,
    keep_free_bytes: options.KeepFreeOption = None,
    git_config: options.GitConfigOption = None,
    known_hosts: options.KnownHostsOption = None,
    ssh_key: options.SshKeyOption = None,
    hook: options.HookOption = None,
    hook_timeout: options.HookTimeoutOption = None,
    maintenance_interval: options.MaintenanceOption = None,
    forward: options.ForwardOption = True,
    http: HttpOption = None,
    spool: SpoolOption = None,
    spool_limit_bytes: LimitOption = DEFAULT_LIMIT_BYTES,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Mirror the branches of a list, and report every attempt.

    Without --once it is a service, which reads the list again when it changes, or on SIGHUP. On
    SIGTERM it starts nothing more, waits a little for what is under way, and ends the rest.

    \b
    Examples:
      mirror-puller run branches.csv --into /srv/mirrors
      mirror-puller run branches.csv --into /srv/mirrors --once --interval 6h
    """
    # Help and errors of usage should not wait for these.
    from mirrorfeed.contract.supervision import Supervisor
    from mirrorfeed.puller.folder import Folder
    from mirrorfeed.puller.service import Puller
    from mirrorfeed.puller.settings import Settings
    from mirrorfeed.puller.state import State

    settings = Settings().with_given(
        jobs=jobs,
        per_host=per_host,
        interval_seconds=options.seconds(interval),
        protocols=options.protocols(allow_protocol),
        stall_seconds=options.seconds(stall_timeout),
        timeout_seconds=options.seconds(timeout),
        stop_seconds=options.seconds(stop_timeout),
        max_mirror_bytes=max_mirror_bytes,
        keep_free_bytes=keep_free_bytes,
        git_config=git_config,
        known_hosts=known_hosts,
        ssh_key=ssh_key,
        hook=options.command_given(hook),
        hook_timeout_seconds=options.seconds(hook_timeout),
        maintenance_seconds=options.seconds(maintenance_interval),
    )
    settings.check()
    folder = Folder(into)
    with ExitStack() as opened:
        lines = None
        if sys.stderr.isatty():
            from mirrorfeed.puller.commands.screen import Lines

            lines = opened.enter_context(Lines())
        else:
            log_to_standard_error(log_format, log_level)
        opened.enter_context(folder.alone())
        state = opened.enter_context(State(folder.state))
        reports = open_reports(
            spool, spool_limit_bytes, amqp_url, forwards=forward, say=logger.warning
        )
        opened.callback(reports.close, flush_seconds=FLUSH_SECONDS if forward else 0.0)
        puller = opened.enter_context(
            closing(Puller(list_path, folder, settings, state, reports, screen=lines))
        )
        check_programs(puller.branches)
        options.note_run(state, list_path, settings)

        def end(_number: int, _frame: FrameType | None) -> None:
            puller.stop()

        def read_again(_number: int, _frame: FrameType | None) -> None:
            puller.read_list()

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, end if once else read_again)
        supervisor = Supervisor(puller)
        # A pass may find the variable of a service that has the port.
        if http is not None and not once:
            from mirrorfeed.contract.probe_server import serving
            from mirrorfeed.contract.probes import Probes
            from mirrorfeed.publisher.metrics import cached_account
            from mirrorfeed.puller.metrics import PullerMetrics

            account = opened.enter_context(cached_account(spool_path(spool), spool_limit_bytes))
            probes = Probes(puller, [PullerMetrics(puller, account)])
            opened.enter_context(serving(http, probes))
        totals = puller.run(once=once, all_due=all_due, on_turn=supervisor.tell)
        supervisor.stopping()
        logger.info("done", extra={"mirrored": totals.mirrored, "failed": totals.failed})
    if once and not totals.is_all_well:
        raise typer.Exit(exit_codes.NOT_MET)
