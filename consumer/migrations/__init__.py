"""Upgrades tables of an older version, with Alembic revisions in plain SQL.

`schema.sql` is what the tables are now; a new database is created from it and never sees a
revision. Revisions only expand, so that workers of the previous version can run beside new ones.
"""

import io
from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

FIRST = "0001"
"""The tables of 0.1.0, which had no version yet."""
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
    """The revision of the tables; None if there are no tables."""
    if not connection.scalar(IS_THERE):
        return None
    if not connection.scalar(HAS_VERSION):
        return FIRST
    version: str = connection.execute(READ_VERSION).scalar_one()
    return version


def bring_forward(engine: Engine) -> None:
    """Creates the tables or upgrades them to this version. Safe to repeat, even by several
    processes at once; it all happens or nothing does."""
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
    """The SQL that `bring_forward` would run, for a DBA to review; empty if there is none."""
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
    """Whether it is this program's version or an older one. Newer tables are left alone."""
    known = ScriptDirectory.from_config(_config()).walk_revisions()
    return version in {revision.revision for revision in known}


def _schema() -> str:
    return files("mirrorfeed").joinpath("schema.sql").read_text()


def _config(connection: Connection | None = None, output: io.StringIO | None = None) -> Config:
    config = Config() if output is None else Config(output_buffer=output)
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config
