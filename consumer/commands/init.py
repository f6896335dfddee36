"""`mirror-consumer init`: tables, exchanges and queues."""

import sys
from collections.abc import Sequence
from typing import Annotated

import pika
import typer
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer.commands.message_limit import advise_limit
from mirrorfeed.consumer.commands.options import DatabaseUrlOption, PartitionsOption
from mirrorfeed.consumer.database import open_engine, unavailable
from mirrorfeed.consumer.errors import ConditionNotMet, LayoutError
from mirrorfeed.consumer.partitions.assignment import living
from mirrorfeed.consumer.partitions.layout import Stage, unchanging_layout
from mirrorfeed.consumer.partitions.repartition import repartition
from mirrorfeed.consumer.partitions.topology import declare_topology
from mirrorfeed.contract import environment, routing
from mirrorfeed.contract.options import AmqpUrlOption

OPEN_SCHEMA = text("""
    SELECT quote_ident(CAST(nspname AS text))
    FROM pg_namespace CROSS JOIN LATERAL aclexplode(nspacl)
    WHERE nspname = current_schema() AND grantee = CAST(0 AS oid) AND privilege_type = 'CREATE'
""")
"""The schema of the tables, if everybody may create something in it: PostgreSQL 14's default."""

app = typer.Typer(rich_markup_mode=None)


@app.command()
def init(
    context: typer.Context,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL that would run, and change nothing.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if there is anything to do.")
    ] = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
    amqp_url: AmqpUrlOption = environment.DEFAULT_AMQP_URL,
    partitions: PartitionsOption = routing.DEFAULT_PARTITIONS,
) -> None:
    """Create the tables, or upgrade older ones; declare the exchanges and queues.

    Safe to repeat. Workers of the previous version can keep running meanwhile.

    \b
    Examples:
      mirror-consumer init
      mirror-consumer init --sql > upgrade.sql
    """
    # Alembic takes a while to load, and no other command needs it.
    from mirrorfeed.consumer import migrations

    engine = open_engine(database_url)
    if sql or check:
        try:
            with engine.connect() as connection:
                version = migrations.current(connection)
                script = migrations.script(connection)
        except DBAPIError as error:
            raise unavailable(error) from error
        if sql:
            print(script, end="")
        elif script:
            found = (
                "there are no tables yet"
                if version is None
                else f"the tables have version {version}"
            )
            raise ConditionNotMet(
                f"{found}: mirror-consumer init brings them to {migrations.newest()}"
            )
        return
    addresses = connection_parameters(amqp_url)
    migrations.bring_forward(engine)
    with engine.connect() as connection:
        if schema := connection.scalar(OPEN_SCHEMA):
            report(
                f"every user may create functions in the schema {schema}, which the statements of"
                " others would call: apply roles.sql, or"
                f" REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC"
            )
    source = context.get_parameter_source("partitions")
    is_typed = source is not None and source.name == "COMMANDLINE"
    with broker_channel(addresses) as channel, unchanging_layout(engine, partitions) as layout:
        if layout.stage is not Stage.STEADY:
            raise LayoutError(layout.under_way)
        if is_typed and layout.partitions != partitions:
            raise LayoutError(
                f"there are {layout.partitions} partitions already, not {partitions}:"
                f" mirror-consumer topology --partitions {partitions} changes their number"
            )
        older = declare_topology(channel, layout.partitions)
    if older:
        _renew_queues(engine, addresses, layout.partitions)
    advise_limit(addresses)


def _renew_queues(engine: Engine, addresses: Sequence[pika.URLParameters], partitions: int) -> None:
    """A queue's arguments cannot be changed, so new queues replace the old ones, as in a change of
    the number of partitions, while workers of this version run."""
    with engine.connect() as connection:
        members = living(connection)
    if not members:
        report(
            "the queues are those of an older version, and still work; they can only be replaced"
            " while a worker runs: start one, then run mirror-consumer init again"
        )
    elif outdated := [member for member in members if member.version is None]:
        report(
            "the queues are those of an older version, and still work, as do its workers"
            f" ({len(outdated)}): replace the workers, then run mirror-consumer init again"
        )
    else:
        repartition(engine, addresses, partitions, report, renew=True)


def report(line: str) -> None:
    print(line, file=sys.stderr)
