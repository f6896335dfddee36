"""Connections to PostgreSQL, and what its errors mean."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

import psycopg2
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, create_engine, func, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from mirrorfeed.consumer.errors import (
    ConsumerError,
    DatabaseUnavailable,
    RefusedByDatabase,
    RightMissing,
    SchemaMissing,
)
from mirrorfeed.contract.secrets import mask_secrets
from mirrorfeed.contract.wire import timestamp

CONNECTION: dict[str, str | int] = {
    "application_name": "mirrorfeed",
    "connect_timeout": 5,
    # A database host that vanished is noticed within seconds, not hours (libpq, section 34.1.2).
    "keepalives_idle": 10,
    "tcp_user_timeout": 15_000,
}
SETTINGS = {
    "timezone": "UTC",
    # A frozen worker must not hold its row locks against the one that takes over.
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "10s",
    # The statements look a few rows up by their keys in tables that may have millions. Without
    # fresh statistics, or with a plan from when there was little, the planner would rather read
    # a table whole, once a batch or even once a branch, or compile what runs for 10 ms.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
_LIST_OF_HOSTS = re.compile(
    r"(?P<scheme>\w[\w+]*://)(?P<user>[^/?#]*@)?(?P<hosts>[^/?#@,]*,[^/?#@]*)"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>.*))?"
)
INIT_LOCK = 0x6D6972726F72  # "mirror" in ASCII
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


def open_engine(url: str) -> Engine:
    """Connects on first use. Raises ValueError for a URL that is not PostgreSQL's."""
    try:
        parsed = make_url(_with_hosts_apart(url))
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername not in ("postgresql", "postgresql+psycopg2"):
        raise ValueError(
            f"the database URL {mask_secrets(url)} cannot be used: one looks like"
            " postgresql://user:password@host:5432/mirrorfeed, with several hosts like"
            " postgresql://user:password@one:5432,two:5432/mirrorfeed?target_session_attrs=read-write"
        )
    # What the URL says holds.
    arguments = {name: value for name, value in CONNECTION.items() if name not in parsed.query}
    settings = [f"-c {name}={value}" for name, value in SETTINGS.items()]
    arguments["options"] = " ".join([*settings, *parsed.normalized_query.get("options", ())])
    return create_engine(parsed.set(drivername="postgresql+psycopg2"), connect_args=arguments)


def _with_hosts_apart(url: str) -> str:
    """A list of hosts, which libpq's URLs have in the host's place (section 34.1.1.2), as the
    parameters `host` and `port`: SQLAlchemy's have one host there."""
    match = _LIST_OF_HOSTS.fullmatch(url)
    if match is None:
        return url
    hosts, ports = [], []
    for each in match["hosts"].split(","):
        host, _, port = each.rpartition(":") if re.search(r":\d*$", each) else (each, "", "")
        hosts.append(host.strip("[]"))
        ports.append(port)
    query = urlencode({"host": ",".join(hosts), "port": ",".join(ports)})
    more = f"&{match['query']}" if match["query"] else ""
    return f"{match['scheme']}{match['user'] or '@'}{match['path'] or '/'}?{query}{more}"


def apply_schema(engine: Engine) -> None:
    """Creates what is not there yet; safe to repeat, also by several processes at once."""
    schema = files("mirrorfeed").joinpath("schema.sql").read_text()
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({INIT_LOCK})")
        connection.exec_driver_sql(schema)


def message_is_to_blame(error: DBAPIError) -> bool:
    """Whether the database refuses the data, now and always, rather than being in trouble."""
    sqlstate = error.orig.pgcode if isinstance(error.orig, psycopg2.Error) else None
    return sqlstate is not None and sqlstate[:2] not in SERVER_TROUBLE


def first_line(error: DBAPIError) -> str:
    """What the database said, in one line and without the statement."""
    return str(error.orig).strip().split("\n", 1)[0]


def meaning(error: DBAPIError) -> ConsumerError:
    """The same as one of our errors: a right is missing, the data is refused, or the database is in
    trouble."""
    if isinstance(error.orig, InsufficientPrivilege):
        return RightMissing(
            f"{first_line(error)}; give this database user the role for it, see roles.sql"
        )
    if message_is_to_blame(error):
        return RefusedByDatabase(first_line(error))
    return unavailable(error)


def unavailable(error: DBAPIError) -> DatabaseUnavailable:
    """The same for what must be able to go on whatever the cause is, and so waits until it can."""
    return DatabaseUnavailable(first_line(error))


def check_database(engine: Engine) -> None:
    """Raises DatabaseUnavailable or SchemaMissing if nothing could be written."""
    try:
        with engine.connect() as connection:
            has_schema, is_read_only = connection.execute(
                text(
                    "SELECT to_regclass('mirror_attempt') IS NOT NULL,"
                    " current_setting('transaction_read_only')::boolean"
                )
            ).one()
    except DBAPIError as error:
        raise unavailable(error) from error
    if is_read_only:
        raise DatabaseUnavailable("the database is read-only, perhaps a standby")
    if not has_schema:
        raise SchemaMissing("the database has no tables yet: run mirror-consumer init")


def database_now(connection: Connection) -> datetime:
    """The time by the database's clock, which is the same wherever a command runs; it stands still
    within a transaction."""
    now: datetime = connection.execute(select(func.now())).scalar_one()
    return now.astimezone(UTC)


def in_utc(instant: datetime) -> datetime:
    """The same instant. Raises ValueError for a time without a zone, which could be any."""
    if instant.utcoffset() is None:
        raise ValueError(f"the time {instant.isoformat()} has no time zone: give its offset")
    return instant.astimezone(UTC)


def age_seconds(now: datetime, since: datetime) -> float:
    """How long ago that was; 0 for what a fast clock has put into the future."""
    return max(0.0, round((now - since).total_seconds(), 3))


def duration_seconds(start: datetime, end: datetime | None) -> float | None:
    return None if end is None else (end - start).total_seconds()


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same with instants as RFC 3339 in UTC."""
    return {
        name: timestamp(value) if isinstance(value, datetime) else value
        for name, value in row.items()
    }
