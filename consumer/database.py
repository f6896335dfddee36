"""Connections to PostgreSQL, and what its errors mean."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg2
from psycopg2.errors import InsufficientPrivilege, LockNotAvailable
from psycopg2.extensions import parse_dsn
from sqlalchemy import Connection, Engine, create_engine, func, select, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.errors import (
    ConsumerError,
    DatabaseUnavailable,
    RefusedByDatabase,
    RightMissing,
    SchemaMissing,
    SessionsMissing,
)
from mirrorfeed.contract.environment import newest
from mirrorfeed.contract.wire import timestamp

CONNECTION: dict[str, str | int] = {
    "application_name": "mirrorfeed",
    "connect_timeout": 5,
    # So that a vanished database host is noticed in seconds, not hours (libpq, section 34.1.2).
    "keepalives_idle": 10,
    "tcp_user_timeout": 15_000,
    # A role, a database or PGCLIENTENCODING may ask for one that cannot hold every reason.
    "client_encoding": "utf8",
}
SETTINGS = {
    # Set once connected: a connection pooler refuses what it does not know in a startup message.
    "timezone": "UTC",
    # A frozen worker must not keep its row locks from the worker that takes over.
    "idle_in_transaction_session_timeout": "10s",
    # The statements look up a few rows by key in tables that may have millions. Without fresh
    # statistics, or with a plan from when a table was small, the planner would rather read a whole
    # table, once per batch or even once per branch, or JIT-compile what runs for 10 ms.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    # A statement's plan does not depend on what it is given. PostgreSQL would still find a new one
    # for each batch as soon as tables are large, which takes longer than to apply an event.
    "plan_cache_mode": "force_generic_plan",
}
PIN = """
    SELECT pg_catalog.set_config('search_path', coalesce(
        coalesce(
            (
                SELECT relnamespace::pg_catalog.regnamespace::pg_catalog.text
                FROM pg_catalog.pg_class
                WHERE oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('branch')
            ),
            pg_catalog.quote_ident(pg_catalog.current_schema())
        ) OPERATOR(pg_catalog.||) ', pg_temp',
        ''
    ), false)
"""
"""From then on names are looked up in `pg_catalog`, then in the schema of our tables, and nowhere
else. That schema is the first on the user's own search path that has them or, before
`mirror-consumer init`, the one in which that creates them.

Whoever may create something in that schema can still add a function or an operator that has exactly
the types of a call, while PostgreSQL's own has none of them, as `unnest(anyarray)`, or others. So
write `pg_catalog.unnest`, and cast to the types of a built-in operator: `tests/traps.py`."""
SCHEMA_VERSION = "0009"
"""The revision of the tables that this program needs; a newer one will do."""
STATE = text("""
    SELECT
        current_setting('transaction_read_only')::boolean,
        CASE WHEN pg_is_in_recovery() THEN greatest(0, coalesce(
            extract(epoch FROM now() - pg_last_xact_replay_timestamp()), 0
        )) END,
        to_regclass('mirror_attempt') IS NOT NULL,
        to_regclass('schema_version') IS NOT NULL
""")
LOCK_TIMEOUT_SECONDS = 10.0
ATTEMPT = "connection to server at "
"""How libpq's word on one address begins, of which there is one below the other."""
SERVER_TROUBLE = frozenset(
    [
        "08",
        "0A",
        "25",
        "26",
        "28",
        "34",
        "3B",
        "3D",
        "3F",
        "40",
        "42",
        "53",
        "55",
        "57",
        "58",
        "F0",
        "XX",
    ]
)
"""Classes of SQLSTATE for which no message is to blame (PostgreSQL's appendix A)."""


def open_engine(
    dsn: str,
    *,
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
    settings: Mapping[str, str] = {},
    **pool: Any,
) -> Engine:
    """Connects on first use. A statement that waits longer than that for a lock is given up.
    `settings` are made beside those of SETTINGS, or in their place; `pool` is for `create_engine`.

    `dsn` is what libpq accepts (section 34.1.1): a URL, which may list several hosts, or keywords
    and values. If it came from a file, each connection reads that again.

    Raises ValueError if libpq cannot read it; the message never quotes it.
    """
    _arguments(dsn)
    all_settings = {**SETTINGS, "lock_timeout": f"{lock_timeout_seconds:g}s", **settings}
    return create_engine(
        "postgresql+psycopg2://",
        creator=lambda: _connect(dsn, all_settings),
        # SQLAlchemy would ask each new connection for a type that we do not use.
        use_native_hstore=False,
        # A thread that comes again gets the session that has its statements prepared and planned.
        pool_use_lifo=True,
        **pool,
    )


def _connect(dsn: str, settings: Mapping[str, str]) -> Any:
    """A connection with these settings. Raises psycopg2.OperationalError if there is none now."""
    try:
        arguments = _arguments(newest(dsn))
        connection = psycopg2.connect(**{**CONNECTION, **arguments})
    except UnicodeDecodeError as error:  # the server does not know yet what encoding we want
        raise psycopg2.OperationalError(error.object.decode(errors="replace")) from error
    except ValueError as error:  # the file cannot be read now, or what is in it
        raise psycopg2.OperationalError(str(error)) from error
    # What the URL says wins.
    given = re.findall(r"(?:-c\s*|--)([\w-]+)=", str(arguments.get("options", "")))
    ours = settings.keys() - {name.replace("-", "_").lower() for name in given}
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(";".join([*(f"SET {name} = '{settings[name]}'" for name in ours), PIN]))
    connection.autocommit = False
    return connection


@contextmanager
def autocommit(engine: Engine) -> Iterator[Connection]:
    """A connection on which each `execute` is a transaction.

    SQLAlchemy's own AUTOCOMMIT costs a round trip each time that a connection is given back.
    """
    with engine.connect() as connection:
        driver_connection: Any = connection.connection.driver_connection
        driver_connection.autocommit = True
        try:
            yield connection
        finally:
            if not driver_connection.closed:
                driver_connection.autocommit = False


def _arguments(dsn: str) -> dict[str, Any]:
    try:
        arguments = parse_dsn(dsn.replace("+psycopg2://", "://", 1))
    except psycopg2.ProgrammingError:
        arguments = {}
    if not arguments:
        raise ValueError(
            "the database URL cannot be read (not shown, in case it has a password); it should look"
            " like postgresql://user:password@host:5432/mirrorfeed, or with several hosts like"
            " postgresql://user:password@one:5432,two:5432/mirrorfeed?target_session_attrs=read-write"
        )
    return arguments


def array_of(numbers: Iterable[int]) -> str:
    """The numbers as PostgreSQL writes an array. It reads that in a fraction of the time that it
    takes for a JSON array, or for the expression that psycopg2 makes of a list."""
    return f"{{{str(list(numbers))[1:-1]}}}"


def message_is_to_blame(error: DBAPIError) -> bool:
    """Whether the database refuses the data for good, rather than being in trouble itself."""
    sqlstate = error.orig.pgcode if isinstance(error.orig, psycopg2.Error) else None
    return sqlstate is not None and sqlstate[:2] not in SERVER_TROUBLE


def is_lock_timeout(error: DBAPIError) -> bool:
    """Whether the statement waited too long for a lock that somebody else holds."""
    return isinstance(error.orig, LockNotAvailable)


def first_line(error: DBAPIError) -> str:
    """What the database said, in one line and without the statement. If it has several addresses,
    what each of them said."""
    lines = str(error.orig).strip().split("\n")
    return "; ".join([line for line in lines if line.startswith(ATTEMPT)] or lines[:1])


def meaning(error: DBAPIError) -> ConsumerError:
    """The error as one of ours: a right is missing, the data is refused, or the database is in
    trouble."""
    if isinstance(error.orig, InsufficientPrivilege):
        return RightMissing(
            f"{first_line(error)}; give this database user the role for it, see roles.sql"
        )
    if message_is_to_blame(error):
        return RefusedByDatabase(first_line(error))
    return unavailable(error)


def unavailable(error: DBAPIError) -> DatabaseUnavailable:
    """The error as one worth waiting out, for code that must carry on whatever the cause is."""
    return DatabaseUnavailable(first_line(error))


def check_database(engine: Engine, *, to_write: bool = True) -> float | None:
    """Returns how many seconds ago the latest change was made that a standby knows of, None if the
    database is no standby.

    Raises DatabaseUnavailable if nothing can be read, or with `to_write` nothing written;
    SchemaMissing if the tables are missing or too old for this program.
    """
    try:
        with engine.connect() as connection:
            is_read_only, changed_seconds, has_schema, has_version = connection.execute(STATE).one()
            version = "0001"
            if has_version:
                query = text("SELECT version_num FROM schema_version")
                version = connection.execute(query).scalar_one()
    except DBAPIError as error:
        raise unavailable(error) from error
    if is_read_only and to_write:
        raise DatabaseUnavailable("the database is read-only, perhaps a standby")
    if not has_schema:
        raise SchemaMissing("the database has no tables yet: run mirror-consumer init")
    if version < SCHEMA_VERSION:
        raise SchemaMissing(
            f"the tables have version {version}, but this program needs {SCHEMA_VERSION}:"
            " run mirror-consumer init; older workers can keep running meanwhile"
        )
    return None if changed_seconds is None else float(changed_seconds)


def check_sessions(engine: Engine) -> None:
    """Raises SessionsMissing if a connection pooler gives each transaction another session, and so
    two idle connections the same one. On a busy pooler that may go unnoticed."""
    pids = []
    try:
        with engine.connect() as one, engine.connect() as other:
            for connection in (one, other):
                pids.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
                connection.commit()
    except DBAPIError as error:
        raise unavailable(error) from error
    if len(set(pids)) == 1:
        raise SessionsMissing(
            "the database is behind a connection pooler that pools transactions, but a worker needs"
            " a session of its own: set pool_mode = session (PgBouncer), or connect to PostgreSQL"
            " itself"
        )


def database_now(connection: Connection) -> datetime:
    """The time by the database's clock, the same wherever a command runs. It stands still within a
    transaction."""
    now: datetime = connection.execute(select(func.now())).scalar_one()
    return now.astimezone(UTC)


def in_utc(instant: datetime) -> datetime:
    """The same instant in UTC. Raises ValueError for a time without a zone."""
    if instant.utcoffset() is None:
        raise ValueError(f"the time {instant.isoformat()} has no time zone: give its offset")
    return instant.astimezone(UTC)


def age_seconds(now: datetime, since: datetime) -> float:
    """How long ago that was; 0 if a fast clock put it in the future."""
    return max(0.0, round((now - since).total_seconds(), 3))


def duration_seconds(start: datetime, end: datetime | None) -> float | None:
    return None if end is None else (end - start).total_seconds()


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its instants as RFC 3339 in UTC."""
    return {
        name: timestamp(value) if isinstance(value, datetime) else value
        for name, value in row.items()
    }
