"""Tables of an older version become those of this one, by Alembic's revisions in plain SQL.

`schema.sql` is what the tables are now; a new database is made from it and never sees a revision.
Revisions expand first, so that workers of the version before go on beside the new ones.
"""

import io
from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

FIRST = "0001"
"""What 0.1.0 published, before anything noted which version the tables are of."""
VERSION_TABLE = "schema_version"
INIT_LOCK = 0x6D6972726F72  # "mirror" in ASCII

IS_THERE = text("SELECT to_regclass('branch') IS NOT NULL")
HAS_VERSION = text(f"SELECT to_regclass('{VERSION_TABLE}') IS NOT NULL")
READ_VERSION = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608  a constant


def newest() -> str:
    """The revision that `schema.sql` describes."""
    (head,) = ScriptDirectory.from_config(_config()).get_heads()
    return head


def current(connection: Connection) -> str | None:
    """The revision that the tables are of; None if there are no tables."""
    if not connection.scalar(IS_THERE):
        return None
    if not connection.scalar(HAS_VERSION):
        return FIRST
    version: str = connection.execute(READ_VERSION).scalar_one()
    return version


def bring_forward(engine: Engine) -> None:
    """Creates the tables or brings them to this version. Safe to repeat, also by several processes
    at once; all of it happens or nothing."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({INIT_LOCK})")
        version = current(connection)
        if version is None:
            connection.execution_options(no_parameters=True).exec_driver_sql(_schema())
        elif _knows(version):
            config = _config(connection)
            if not connection.scalar(HAS_VERSION):
                command.stamp(config, version)
            command.upgrade(config, "head")


def script(connection: Connection) -> str:
    """The SQL that `bring_forward` would run, for a DBA; empty if there is nothing to do."""
    version = current(connection)
    if version is None:
        return _schema()
    if version == newest() or not _knows(version):
        return ""
    output = io.StringIO()
    config = _config(output=output)
    if not connection.scalar(HAS_VERSION):
        command.stamp(config, version, sql=True)
    command.upgrade(config, f"{version}:head", sql=True)
    return output.getvalue()


def _knows(version: str) -> bool:
    """Whether the tables are of this version or an older one; a newer one's stay as they are."""
    known = ScriptDirectory.from_config(_config()).walk_revisions()
    return version in {revision.revision for revision in known}


def _schema() -> str:
    return files("mirrorfeed").joinpath("schema.sql").read_text()


def _config(connection: Connection | None = None, output: io.StringIO | None = None) -> Config:
    config = Config() if output is None else Config(output_buffer=output)
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config
