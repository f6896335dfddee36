"""`mirror-consumer`: the commands that run beside the database."""

import re
import signal
import threading
from contextlib import ExitStack
from typing import Annotated

import typer

from mirrorfeed.amqp.connections import Addresses
from mirrorfeed.consumer.apply.allowance import LETTERS_PER_HOUR
from mirrorfeed.consumer.apply.message import HIGHEST_SEQUENCE
from mirrorfeed.consumer.commands import (
    audit,
    branches,
    canary,
    check_branches,
    collect,
    health,
    init,
    prune,
    rebuild,
    scripts,
    sources,
    status,
    topology,
    web,
)
from mirrorfeed.consumer.commands.options import (
    FUTURE_TOLERANCE_SECONDS,
    DatabaseUrlOption,
    FutureToleranceOption,
    HighestSequenceOption,
    PartitionsOption,
    limits,
)
from mirrorfeed.consumer.commands.program import meaning_to_caller
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.errors import UsageError
from mirrorfeed.consumer.partitions.assignment import Share
from mirrorfeed.consumer.worker.service import Worker
from mirrorfeed.consumer.worker.settings import Settings
from mirrorfeed.contract import environment, routing
from mirrorfeed.contract.ending import ended_by
from mirrorfeed.contract.logs import LogFormat, LogLevel, log_to_standard_error
from mirrorfeed.contract.options import (
    AmqpUrlOption,
    HttpOption,
    LogFormatOption,
    LogLevelOption,
)
from mirrorfeed.contract.program import run_program
from mirrorfeed.contract.supervision import TELL_SECONDS, Supervisor
from mirrorfeed.contract.tracing import spans_of
from mirrorfeed.version import root

PROGRAM = "mirror-consumer"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOCK_TIMEOUT_SECONDS = 1.0
"""How long a worker waits for a lock before it applies everything else first."""
STOP_SECONDS = 9.0
"""How long a worker may take to stop; what it has not acked by then is applied again."""

app = typer.Typer(
    help="Applies what pullers report to PostgreSQL, and shows the result.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(root)
app.add_typer(init.app)
app.add_typer(branches.app, name="branches")
app.add_typer(rebuild.app)
app.add_typer(audit.app)
app.add_typer(sources.app)
app.add_typer(prune.app)
app.add_typer(status.app)
app.add_typer(scripts.app)
app.add_typer(topology.app)
app.add_typer(health.app)
app.add_typer(check_branches.app)
app.add_typer(canary.app)
app.add_typer(collect.app)
app.add_typer(web.app)


@app.command()
def run(
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    partitions: PartitionsOption = routing.DEFAULT_PARTITIONS,
    drain: Annotated[
        bool, typer.Option("--drain", help="Exit once the queues are empty and all is committed.")
    ] = False,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Be the I-th of N workers: take every N-th partition. By default the running"
            " workers share the partitions evenly.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=10_000, help="The most messages in one transaction.")
    ] = 4000,
    future_tolerance_seconds: FutureToleranceOption = FUTURE_TOLERANCE_SECONDS,
    highest_sequence: HighestSequenceOption = HIGHEST_SEQUENCE,
    letters_per_hour: Annotated[
        int,
        typer.Option(
            "--letters-per-hour",
            envvar=environment.LETTERS_PER_HOUR,
            metavar="N",
            min=0,
            max=2**31 - 1,
            help="Keep at most N new letters of each source within an hour of the clock, and only"
            " count the rest, with their digests: see mirror-replay list --overflow. Messages whose"
            " source cannot be read count as one source. 0 keeps all.",
        ),
    ] = LETTERS_PER_HOUR,
    required_users: Annotated[
        list[str] | None,
        typer.Option(
            "--require-user",
            metavar="NAME",
            help="Apply only messages that the broker says were published by this user, and bury"
            " the rest. Can be repeated.",
        ),
    ] = None,
    http: HttpOption = None,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Apply what is in the queues to the database: the worker service.

    It recovers by itself when a server was down. On SIGTERM it finishes its batch and exits.

    \b
    Example:
      mirror-consumer run --share 1/2
    """
    log_to_standard_error(log_format, log_level)
    ended = ended_by(SIGNALS)
    settings = Settings(
        batch_size=batch_size,
        limits=limits(future_tolerance_seconds, highest_sequence),
        drain=drain,
        required_users=frozenset(required_users or ()),
        letters_per_hour=letters_per_hour,
        spans=spans_of(PROGRAM),
    )
    worker = Worker(
        open_engine(database_url, lock_timeout_seconds=LOCK_TIMEOUT_SECONDS),
        Addresses(amqp_url, name="mirrorfeed worker"),
        settings,
        share=read_share(share),
        default_partitions=partitions,
    )
    with ExitStack() as stack:
        # A drain may find the variable of a service that has the port.
        if http is not None and not drain:
            # Other commands need not import these.
            from mirrorfeed.consumer.worker.metrics import WorkerMetrics
            from mirrorfeed.contract.probe_server import serving
            from mirrorfeed.contract.probes import Probes

            probes = Probes(worker, [WorkerMetrics(worker.progress)])
            stack.enter_context(serving(http, probes))
        run_until_set(worker, ended)


def main() -> None:
    """The console script."""
    run_program(app, PROGRAM, meaning_to_caller)


def read_share(share: str | None) -> Share | None:
    if share is None:
        return None
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", share)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--share {share!r} is not I/N with I from 1 to N, such as 1/2")
    return Share(int(match[1]), int(match[2]))


def run_until_set(worker: Worker, ended: threading.Event) -> None:
    """Runs the worker in a thread of its own, while this one tells systemd how it is."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    supervisor = Supervisor(worker)
    thread = threading.Thread(target=run, name="worker", daemon=True)
    thread.start()
    while not ended.wait(TELL_SECONDS):
        supervisor.tell()
    supervisor.stopping()
    worker.stop()
    thread.join(STOP_SECONDS)
    if failures:
        raise failures[0]
