"""`mirror-consumer`: the commands beside the database."""

import logging
import re
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from msgspec import to_builtins
from pythonjsonlogger.json import JsonFormatter

from consumer.branches import NewBranch, read_branches, register
from consumer.console import (
    EXIT_NOT_SO,
    EXIT_USAGE,
    FUTURE_TOLERANCE_SECONDS,
    MAX_SECONDS,
    AmqpUrlOption,
    DatabaseUrlOption,
    FutureToleranceOption,
    JsonOption,
    as_document,
    fail,
    plural,
    print_differences,
    print_json,
    print_table,
    ready_engine,
    run_app,
    span,
    transaction,
)
from consumer.database import apply_schema, open_engine
from consumer.layout import Stage, read_layout, unchanging_layout
from consumer.ledger import audit as audit_ledger
from consumer.maintenance import prune as prune_tables
from consumer.maintenance import rebuild as rebuild_branches
from consumer.membership import Share
from consumer.reading_cli import app as reading_app
from consumer.scripts_cli import app as scripts_app
from consumer.session import Settings
from consumer.takeover import take_over
from consumer.topology import (
    broker_channel,
    connection_parameters,
    consumer_count,
    declare_topology,
)
from consumer.topology_cli import app as topology_app
from consumer.worker import Worker
from contract import environment, routing
from contract.events import check_branch_id

PROGRAM = "mirror-consumer"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_SECONDS = 0.1
STOP_SECONDS = 9.0
"""How long a worker that was told to stop may take; what is not acked by then is applied again."""

app = typer.Typer(
    help="Applies what pullers report to PostgreSQL, and shows what it says.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
branches_app = typer.Typer(help="Register branches.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(branches_app, name="branches")
app.add_typer(reading_app)
app.add_typer(scripts_app)
app.add_typer(topology_app)

PartitionsOption = Annotated[
    int,
    typer.Option(
        "--partitions",
        envvar=environment.PARTITIONS,
        min=1,
        max=routing.SLOTS,
        help="How many partition queues share the slots, where the database does not say so yet.",
    ),
]


@app.command()
def init(
    context: typer.Context,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    partitions: PartitionsOption = routing.DEFAULT_PARTITIONS,
) -> None:
    """Create the tables and declare the exchanges and queues. Safe to repeat.

    \b
    Example:
      mirror-consumer init
    """
    engine, addresses = open_engine(database_url), connection_parameters(amqp_url)
    apply_schema(engine)
    source = context.get_parameter_source("partitions")
    is_typed = source is not None and source.name == "COMMANDLINE"
    with broker_channel(addresses) as channel, unchanging_layout(engine, partitions) as layout:
        if layout.stage is not Stage.STEADY:
            refuse(layout.under_way)
        if is_typed and layout.partitions != partitions:
            refuse(
                f"there are {layout.partitions} partitions already, not {partitions}:"
                f" mirror-consumer topology --partitions {partitions} changes their number"
            )
        declare_topology(channel, layout.partitions)


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

    The file may have the mirror columns of the branch table, too: last_mirror_attempt,
    last_mirrored, last_mirrored_id, mirror_failures, mirror_status_message. A branch that has no
    attempts yet takes them over, and what happens from now on continues from there.

    \b
    Example:
      mirror-consumer branches import branches.csv
    """
    branches = read_branches(file)
    with transaction(database_url) as connection:
        new = register(connection, branches)
        states = {branch.id: branch.state for branch in branches if branch.state is not None}
        taken = take_over(connection, states)
    print(f"{new} branches registered, {len(branches) - new} were already")
    if states:
        print(f"{taken} took over their mirror state")


@app.command()
def run(
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    partitions: PartitionsOption = routing.DEFAULT_PARTITIONS,
    drain: Annotated[
        bool, typer.Option("--drain", help="End once the queues are empty and all is committed.")
    ] = False,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="As the I-th of N workers: take every N-th partition. Without it the workers that"
            " run share the partitions evenly.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=10_000, help="Messages in one transaction, at most.")
    ] = 1000,
    future_tolerance_seconds: FutureToleranceOption = FUTURE_TOLERANCE_SECONDS,
    required_users: Annotated[
        list[str] | None,
        typer.Option(
            "--require-user",
            metavar="NAME",
            help="Bury what the broker does not vouch for as published by this user; may be"
            " repeated.",
        ),
    ] = None,
) -> None:
    """Apply what the queues hold to the database: the worker service.

    It comes back by itself when a server was away. SIGTERM ends it after the batch in hand.

    \b
    Example:
      mirror-consumer run --share 1/2
    """
    log_as_json()
    settings = Settings(
        batch_size=batch_size,
        future_tolerance=timedelta(seconds=future_tolerance_seconds),
        drain=drain,
        required_users=frozenset(required_users or ()),
    )
    worker = Worker(
        open_engine(database_url),
        connection_parameters(amqp_url),
        settings,
        share=read_share(share),
        default_partitions=partitions,
    )
    run_until_signal(worker)


@app.command()
def audit(
    grace_seconds: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            min=0,
            max=MAX_SECONDS,
            help="What is missing for less than that may still be on its way, and does not count.",
        ),
    ] = 0.0,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show which numbered events of each source have not arrived; exit 1 where any is missing.

    Where `highest` is a source's `spooled`, as mirror-publisher status shows it on that host, and
    nothing is missing, all that it ever reported has arrived.

    \b
    Example:
      mirror-consumer audit --grace 60
    """
    with transaction(database_url) as connection:
        accounts = audit_ledger(connection, grace_seconds=grace_seconds)
    missing_total = sum(account.missing_count for account in accounts)
    if as_json_document:
        sources = [
            {
                **to_builtins(account),
                "missing": [(each.first, each.last) for each in account.missing],
                "missing_seconds": [round(each.missing_seconds, 3) for each in account.missing],
            }
            for account in accounts
        ]
        print_json({"sources": sources, "missing_total": missing_total})
    else:
        print_table(
            ("source", "highest", "received", "missing", "dead"),
            [
                (each.source, each.highest, each.received, each.missing_count, each.dead)
                for each in accounts
            ],
        )
        print_table(
            ("missing from", "from", "to", "for"),
            [
                (account.source, each.first, each.last, span(each.missing_seconds))
                for account in accounts
                for each in account.missing
            ],
        )
    if missing_total:
        refuse(f"{plural(missing_total, 'event')} missing", EXIT_NOT_SO)


@app.command()
def rebuild(
    branch_ids: Annotated[
        list[int] | None, typer.Argument(metavar="ID", help="All branches if not given.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Change nothing, and exit 1 where a row is not right."),
    ] = False,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Compute branch rows from their attempts anew, and show every row that was not right.

    There should be none: this is the check, and the cure after somebody changed rows by hand.

    \b
    Example:
      mirror-consumer rebuild 17
    """
    for branch_id in branch_ids or ():
        check_branch_id(branch_id)
    rebuilt = rebuild_branches(ready_engine(database_url), branch_ids or None, dry_run=dry_run)
    if as_json_document:
        print_json({"checked": rebuilt.checked, "differed": as_document(rebuilt.differed)})
    else:
        print_differences(rebuilt.differed)
        print(f"{plural(rebuilt.checked, 'branch row')} checked, {len(rebuilt.differed)} not right")
    if dry_run and rebuilt.differed:
        raise typer.Exit(EXIT_NOT_SO)


@app.command()
def prune(
    keep_days: Annotated[
        float, typer.Option("--keep", metavar="DAYS", min=0, max=36_500, help="How much to keep.")
    ],
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Remove attempts older than DAYS and than their branch's last success, and letters that were
    replayed or discarded more than DAYS ago. No branch row changes.

    Keep more than the longest outage that a spool may sit out.

    \b
    Example:
      mirror-consumer prune --keep 90
    """
    pruned = prune_tables(ready_engine(database_url), timedelta(days=keep_days))
    if as_json_document:
        print_json(to_builtins(pruned))
    else:
        print(f"removed {plural(pruned.attempts, 'attempt')}, {plural(pruned.letters, 'letter')}")


@app.command()
def health(
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
) -> None:
    """Exit 0 where the database can be written and every partition has a worker, else say why not.

    \b
    Example:
      mirror-consumer health
    """
    engine = ready_engine(database_url)
    with engine.connect() as connection:
        layout = read_layout(connection)
    with broker_channel(connection_parameters(amqp_url)) as channel:
        idle = [queue for queue in layout.queues if not consumer_count(channel, queue)]
    if idle:
        refuse(f"no worker consumes {', '.join(idle)}: start mirror-consumer run", EXIT_NOT_SO)


def main() -> None:
    """The console script."""
    run_app(app, PROGRAM)


def refuse(message: str, exit_code: int = EXIT_USAGE) -> NoReturn:
    fail(PROGRAM, message, exit_code)


def read_share(share: str | None) -> Share | None:
    if share is None:
        return None
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", share)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        refuse(f"--share {share!r} is not I/N with I from 1 to N, such as 1/2")
    return Share(int(match[1]), int(match[2]))


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
