"""`mirror-consumer`: the commands beside the database."""

import json
import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pythonjsonlogger.json import JsonFormatter
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from consumer.branches import NewBranch, read_branches, register
from consumer.database import (
    DatabaseUnavailable,
    SchemaMissing,
    apply_schema,
    check_database,
    first_line,
    message_is_to_blame,
    open_engine,
)
from consumer.messages import FUTURE_TOLERANCE
from consumer.session import Plan
from consumer.status import STUCK_AFTER, as_json, branch_states
from consumer.topology import (
    BrokerUnavailable,
    broker_channel,
    connection_parameters,
    consumer_counts,
    declare_topology,
)
from consumer.worker import Worker
from contract import environment, routing
from contract.events import check_branch_id

EXIT_NOT_SO = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_SECONDS = 0.1
STOP_SECONDS = 9.0
"""How long a worker that was told to stop may take; what is not acked by then is applied again."""
MAX_SECONDS = 1e9

app = typer.Typer(
    help="Applies what pullers report to PostgreSQL, and shows what it says.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
branches_app = typer.Typer(help="Register branches.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(branches_app, name="branches")

DatabaseUrlOption = Annotated[
    str, typer.Option("--database-url", envvar=environment.DATABASE_URL, help="The database.")
]
AmqpUrlOption = Annotated[
    str, typer.Option("--amqp-url", envvar=environment.AMQP_URL, help="The broker.")
]
PartitionsOption = Annotated[
    int,
    typer.Option(
        "--partitions",
        envvar=environment.PARTITIONS,
        min=1,
        max=routing.SLOTS,
        help="How many partition queues share the slots; the same number for every worker.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def init(
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    partitions: PartitionsOption = routing.DEFAULT_PARTITIONS,
) -> None:
    """Create the tables and declare the exchanges and queues. Safe to repeat.

    \b
    Example:
      mirror-consumer init
    """
    engine, parameters = open_engine(database_url), connection_parameters(amqp_url)
    apply_schema(engine)
    with broker_channel(parameters) as channel:
        declare_topology(channel, partitions)


@branches_app.command("add")
def add_branch(
    branch_id: Annotated[int, typer.Argument(metavar="ID", help="The branch's number.")],
    unique_name: Annotated[str, typer.Argument(help="Its name, which no other branch has.")],
    url: Annotated[str | None, typer.Option(help="Where it is mirrored from.")] = None,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Register one branch. Safe to repeat.

    \b
    Example:
      mirror-consumer branches add 17 ~jane/project/main --url https://example.org/main
    """
    with transaction(database_url) as connection:
        register(connection, [NewBranch(branch_id, unique_name, url)])


@branches_app.command("import")
def import_branches(
    file: Annotated[Path, typer.Argument(help="CSV with a heading: id, unique_name, url.")],
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Register all branches of a file, or none where one of them cannot be. Safe to repeat.

    \b
    Example:
      mirror-consumer branches import branches.csv
    """
    branches = read_branches(file)
    with transaction(database_url) as connection:
        new = register(connection, branches)
    print(f"{new} branches registered, {len(branches) - new} were already")


@app.command()
def run(
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    partitions: PartitionsOption = routing.DEFAULT_PARTITIONS,
    drain: Annotated[
        bool, typer.Option("--drain", help="End once the queues are empty and all is committed.")
    ] = False,
    share: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="As the I-th of N workers: take every N-th partition first, and stand by for the"
            " others.",
        ),
    ] = "1/1",
    batch_size: Annotated[
        int, typer.Option(min=1, max=10_000, help="Messages in one transaction, at most.")
    ] = 1000,
    future_tolerance_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            max=MAX_SECONDS,
            help="How far an event's time may be ahead of this host's clock.",
        ),
    ] = FUTURE_TOLERANCE.total_seconds(),
) -> None:
    """Apply what the queues hold to the database: the worker service.

    It comes back by itself when a server was away. SIGTERM ends it after the batch in hand.

    \b
    Example:
      mirror-consumer run --share 1/2
    """
    log_as_json()
    plan = Plan(
        partitions=partitions,
        own=share_of(share, partitions),
        batch_size=batch_size,
        future_tolerance=timedelta(seconds=future_tolerance_seconds),
        drain=drain,
    )
    run_until_signal(Worker(open_engine(database_url), connection_parameters(amqp_url), plan))


@app.command()
def status(
    branch_id: Annotated[
        int | None, typer.Argument(metavar="[ID]", help="The branch's number; all if not given.")
    ] = None,
    stuck_after_seconds: Annotated[
        float,
        typer.Option(
            min=0, max=MAX_SECONDS, help="When an attempt that has not ended counts as stuck."
        ),
    ] = STUCK_AFTER.total_seconds(),
    print_json: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show the mirror state of one branch or of all.

    \b
    Example:
      mirror-consumer status 17 --json
    """
    if branch_id is not None:
        check_branch_id(branch_id)
    with transaction(database_url) as connection:
        branches = branch_states(
            connection, branch_id, stuck_after=timedelta(seconds=stuck_after_seconds)
        )
    if print_json:
        print(json.dumps({"branches": as_json(branches)}))
    else:
        print_branches(branches)
    if branch_id is not None and not branches:
        refuse(
            f"branch {branch_id} is not registered: mirror-consumer branches add {branch_id} NAME",
            EXIT_NOT_SO,
        )


def print_branches(branches: Sequence[dict[str, Any]]) -> None:
    table = Table(
        "id", "name", "state", "last mirrored", "revision", "failures", "message", box=None
    )
    for branch in branches:
        cells = (
            str(branch["id"]),
            branch["unique_name"],
            branch["state"],
            f"{branch['last_mirrored']:%Y-%m-%d %H:%M:%S}" if branch["last_mirrored"] else "never",
            (branch["last_mirrored_id"] or "")[:12],
            str(branch["mirror_failures"]),
            branch["mirror_status_message"] or "",
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console().print(table)


def printable(text: str) -> str:
    """Nothing that comes from a puller may command the operator's terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


@app.command()
def health(
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    partitions: PartitionsOption = routing.DEFAULT_PARTITIONS,
) -> None:
    """Exit 0 where the database can be written and every partition has a worker, else say why not.

    \b
    Example:
      mirror-consumer health
    """
    check_database(open_engine(database_url))
    with broker_channel(connection_parameters(amqp_url)) as channel:
        idle = [queue for queue, count in consumer_counts(channel, partitions) if not count]
    if idle:
        refuse(f"no worker consumes {', '.join(idle)}: start mirror-consumer run", EXIT_NOT_SO)


def main() -> None:
    """The console script. Bad input exits 2, a server that cannot be reached 3."""
    try:
        app()
    except (BrokerUnavailable, DatabaseUnavailable) as error:
        refuse(str(error), EXIT_UNREACHABLE)
    except DBAPIError as error:
        refuse(first_line(error), EXIT_USAGE if message_is_to_blame(error) else EXIT_UNREACHABLE)
    except (SchemaMissing, ValueError) as error:
        refuse(str(error))


def refuse(message: str, exit_code: int = EXIT_USAGE) -> NoReturn:
    print(f"mirror-consumer: {message}", file=sys.stderr)
    sys.exit(exit_code)


@contextmanager
def transaction(database_url: str) -> Iterator[Connection]:
    engine = open_engine(database_url)
    check_database(engine)
    with engine.begin() as connection:
        yield connection


def share_of(share: str, partitions: int) -> frozenset[int]:
    """The partitions of the I-th of N workers."""
    match = re.fullmatch(r"(\d+)/(\d+)", share)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        refuse(f"--share {share!r} is not I/N with I from 1 to N, such as 1/2")
    index, workers = int(match[1]), int(match[2])
    return frozenset(range(index - 1, partitions, workers))


def log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "message": "event"},
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # its troubles are reported as ours


def run_until_signal(worker: Worker) -> None:
    """Runs the worker in a thread of its own, so that no signal handler interrupts its locks."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as error:
            failures.append(error)

    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    thread = threading.Thread(target=run, name="worker", daemon=True)
    thread.start()
    # sigtimedwait would do both, but Python 3.11's takes a SIGCONT for a signal.
    while thread.is_alive() and not signal.sigpending() & set(SIGNALS):
        thread.join(POLL_SECONDS)
    worker.stop()
    thread.join(STOP_SECONDS)
    if failures:
        raise failures[0]
