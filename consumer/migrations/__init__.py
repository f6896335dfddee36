"""Upgrades tables of an older version, with Alembic revisions in plain SQL.

`schema.sql` is what the tables are now; a new database is created from it and never sees a
revision. Revisions only expand, so that workers of the previous version can run beside new ones.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from alembic import command, context, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg2.errors import DuplicateTable, UniqueViolation
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from mirrorfeed.consumer.errors import UsageError

FIRST = "0001"
"""The tables of 0.1.0, which had no version yet."""
VERSION_TABLE = "schema_version"

IS_THERE = text("SELECT to_regclass('branch') IS NOT NULL")
HAS_VERSION = text(f"SELECT to_regclass('{VERSION_TABLE}') IS NOT NULL")
SCHEMA = text("SELECT current_schema()")
ENCODING = text("SHOW server_encoding")
READ_VERSION = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608  a constant
# Conflicts with itself and with no reading: who may only read cannot hold it.
LOCK_VERSION = text(f"LOCK TABLE {VERSION_TABLE} IN SHARE ROW EXCLUSIVE MODE")
# Fails if there is one.
BEGIN_WITH_FIRST = f"""
CREATE TABLE {VERSION_TABLE} (version_num varchar(32) CONSTRAINT schema_version_pkc PRIMARY KEY);
INSERT INTO {VERSION_TABLE} VALUES ('{FIRST}');
"""  # noqa: S608
ALONE = "SET LOCAL search_path = pg_catalog, pg_temp"


def newest() -> str:
    """The revision that `schema.sql` describes."""
    (head,) = ScriptDirectory.from_config(_config()).get_heads()
    return head


def current(connection: Connection) -> str | None:
    """The revision of the tables; None if there are no tables.

    Raises UsageError for a database that cannot hold every text.
    """
    encoding = connection.scalar(ENCODING)
    if encoding != "UTF8":
        raise UsageError(
            f"the database has the encoding {encoding}, which cannot hold every text: make another"
            " one (createdb --encoding UTF8 --template template0 NAME), and give its URL"
        )
    if not connection.scalar(IS_THERE):
        return None
    if not connection.scalar(HAS_VERSION):
        return FIRST
    version: str = connection.execute(READ_VERSION).scalar_one()
    return version


def bring_forward(engine: Engine) -> None:
    """Creates the tables or upgrades them to this version. Safe to repeat, even by several
    processes at once; it all happens or nothing does.

    Raises UsageError for a database that cannot hold every text.
    """
    # The first of several creates the table of the version. The others wait for that, fail, and
    # then find nothing left to do.
    another_was_first = retry_if_exception(
        lambda error: (
            isinstance(error, DBAPIError)
            and isinstance(error.orig, DuplicateTable | UniqueViolation)
        )
    )
    Retrying(retry=another_was_first, stop=stop_after_attempt(3), reraise=True)(_step, engine)


def _step(engine: Engine) -> None:
    with engine.begin() as connection:
        version = current(connection)
        if version is None:
            connection.execution_options(no_parameters=True).exec_driver_sql(_schema())
        elif version != newest() and _knows(version):
            if connection.scalar(HAS_VERSION):
                connection.execute(LOCK_VERSION)
            else:
                connection.exec_driver_sql(BEGIN_WITH_FIRST)
            schema = connection.execute(SCHEMA).scalar_one()
            connection.exec_driver_sql(ALONE)
            command.upgrade(_config(schema, connection), "head")


@contextmanager
def in_our_schema() -> Iterator[None]:
    """For a revision: names without a schema are looked up where our tables are. Alembic's own
    statements never are, because others may be able to create functions there."""
    quote = op.get_context().dialect.identifier_preparer.quote_identifier
    schema = quote(context.config.attributes["schema"])
    op.execute(f"SET LOCAL search_path = {schema}, pg_temp")
    yield
    op.execute(ALONE)


def script(connection: Connection) -> str:
    """The SQL that `bring_forward` would run, for a DBA to review; empty if there is none."""
    version = current(connection)
    if version is None:
        return _schema()
    if version == newest() or not _knows(version):
        return ""
    output = io.StringIO()
    if not connection.scalar(HAS_VERSION):
        output.write(BEGIN_WITH_FIRST)
    schema = connection.execute(SCHEMA).scalar_one()
    command.upgrade(_config(schema, output=output), f"{version}:head", sql=True)
    return output.getvalue()


def _knows(version: str) -> bool:
    """Whether it is this program's version or an older one. Newer tables are left alone."""
    known = ScriptDirectory.from_config(_config()).walk_revisions()
    return version in {revision.revision for revision in known}


def _schema() -> str:
    return files("mirrorfeed").joinpath("schema.sql").read_text()


def _config(
    schema: str = "", connection: Connection | None = None, output: io.StringIO | None = None
) -> Config:
    config = Config() if output is None else Config(output_buffer=output)
    config.attributes["schema"] = schema
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config
