"""`mirror-consumer collect`: the metrics of what only the database and the broker know."""

import signal
from datetime import timedelta
from typing import Annotated

import typer

from mirrorfeed.amqp.connections import Addresses
from mirrorfeed.consumer.branches.scripts import Watched
from mirrorfeed.consumer.commands.options import DatabaseUrlOption
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.errors import UsageError
from mirrorfeed.contract import environment
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.ending import ended_by
from mirrorfeed.contract.logs import LogFormat, LogLevel, log_to_standard_error
from mirrorfeed.contract.options import AmqpUrlOption, LogFormatOption, LogLevelOption
from mirrorfeed.contract.supervision import TELL_SECONDS, Supervisor

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LEAST_INTERVAL = timedelta(seconds=5)

app = typer.Typer(rich_markup_mode=None)


@app.command()
def collect(
    http: Annotated[
        str,
        typer.Option(
            "--http",
            envvar=environment.HTTP,
            metavar="HOST:PORT",
            help="Answer at /live, /ready and /metrics there, such as 127.0.0.1:9471.",
        ),
    ],
    interval: Annotated[str, typer.Option(metavar="DURATION", help="How often to look.")] = "60s",
    grace: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="Events that have been missing for less do not count."
        ),
    ] = "60s",
    silent_after: Annotated[
        str, typer.Option(metavar="DURATION", help="When a host counts as silent.")
    ] = "2h",
    scripts: Annotated[
        list[str] | None,
        typer.Option("--script", metavar="HOST:SCRIPT", help="Watch this script. Can be repeated."),
    ] = None,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Look at the database and the broker now and then, and show Prometheus what was found: a
    service, of which one is enough.

    It looks once in --interval, however often it is scraped. A role that may only read will do,
    and so will a standby.

    \b
    Example:
      mirror-consumer collect --http 127.0.0.1:9471 \\
        --script vostok:branch-puller
    """
    # Other commands need not import these.
    from mirrorfeed.consumer.collector.metrics import CollectorMetrics
    from mirrorfeed.consumer.collector.reading import Reader, Watching
    from mirrorfeed.consumer.collector.service import Collecting
    from mirrorfeed.contract.probe_server import serving
    from mirrorfeed.contract.probes import Probes

    if duration(interval) < LEAST_INTERVAL:
        raise UsageError(f"--interval {interval} would keep the servers busy: give 5s or more")
    log_to_standard_error(log_format, log_level)
    watching = Watching(
        duration(grace), duration(silent_after), tuple(map(Watched.parse, scripts or ()))
    )
    addresses = Addresses(amqp_url, name="mirrorfeed collector")
    reader = Reader(open_engine(database_url), addresses, watching)
    collecting = Collecting(reader, duration(interval))
    supervisor = Supervisor(collecting)
    told_to_end = ended_by(SIGNALS)
    probes = Probes(collecting, [CollectorMetrics(collecting.readings)])
    with serving(http, probes), collecting.readings:
        while not told_to_end.wait(TELL_SECONDS):
            supervisor.tell()
        supervisor.stopping()
