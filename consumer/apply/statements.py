"""The applier's statements, prepared once per connection: to parse and plan them takes longer than
to apply an event.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from time import monotonic
from typing import Any

from psycopg2.errors import InvalidSqlStatementName
from sqlalchemy import Connection, CursorResult, TextClause, text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.ledger import RECORD
from mirrorfeed.consumer.apply.projection import (
    APPLY_ATTEMPTS,
    APPLY_FEW,
    LOCK_BRANCHES,
    PROJECT_BRANCHES,
    UPSERT_ATTEMPTS,
)

INSERT_SCRIPT_ACTIVITY = text("""
    INSERT INTO script_activity (name, hostname, date_started, date_completed)
    SELECT * FROM json_to_recordset(CAST(:runs AS json)) AS run (
        name text, hostname text, started_at timestamptz, completed_at timestamptz)
    ON CONFLICT DO NOTHING
""")

PREPARED = {
    LOCK_BRANCHES: "lock_branches",
    APPLY_FEW: "apply_few",
    APPLY_ATTEMPTS: "apply_attempts",
    UPSERT_ATTEMPTS: "upsert_attempts",
    PROJECT_BRANCHES: "project_branches",
    INSERT_SCRIPT_ACTIVITY: "insert_script_activity",
    RECORD: "record",
}
"""The statements that a batch may execute, and their names in the session."""

PLAN_SECONDS = 1.0
"""How long a plan is kept. A plan made when a table was small may read the whole table, which takes
seconds once it is large, and PostgreSQL would keep that plan until it has new statistics."""

DISCARD_PLANS = text("DISCARD PLANS")

Statement = tuple[TextClause, Mapping[str, object]]
"""A prepared statement, or one without arguments; and its arguments."""


def prepare(connection: Connection) -> None:
    """Makes sure that the session has the statements prepared, and no old plans of them.

    Prepared statements outlive the transaction, even one that is rolled back.
    """
    now = monotonic()
    planned_at = connection.info.get("planned_at")
    if planned_at is None:
        for preparation in _preparations():
            connection.execute(preparation)
    elif now - planned_at > PLAN_SECONDS:
        connection.execute(DISCARD_PLANS)
    else:
        return
    connection.info["planned_at"] = now


def forget_prepared(connection: Connection, error: DBAPIError) -> bool:
    """Whether the error came from a session without the prepared statements, which can happen
    behind a connection pooler. If so, the next `prepare` prepares them again."""
    if not isinstance(error.orig, InvalidSqlStatementName):
        return False
    del connection.info["planned_at"]
    return True


@cache
def _preparations() -> list[TextClause]:
    dialect = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
    preparations = [
        f"PREPARE {name} AS {statement.compile(dialect=dialect)}"
        for statement, name in PREPARED.items()
    ]
    # If a preparation fails, the ones before it stay: start afresh.
    return [text(each) for each in ["DEALLOCATE ALL", *preparations]]


def at_once(connection: Connection, statements: Sequence[Statement]) -> CursorResult[Any]:
    """Executes all the statements in one round trip, and returns the result of the last one. In
    autocommit they are one transaction, as PostgreSQL's simple query protocol has it."""
    prepare(connection)
    script = _script(tuple((statement, *given) for statement, given in statements))
    return connection.execute(
        script, {name: value for _, given in statements for name, value in given.items()}
    )


@cache
def _script(statements: tuple[tuple[TextClause, *tuple[str, ...]], ...]) -> TextClause:
    """All the statements, each with the names of its arguments, in one."""
    texts = [
        _executing(statement, [f":{name}" for name in names]) for statement, *names in statements
    ]
    return text(";".join(texts))


BEGIN_TRIAL = text("SAVEPOINT trial")
UNDO_TRIAL = text("ROLLBACK TO SAVEPOINT trial; RELEASE SAVEPOINT trial")


def as_script(statements: Sequence[Statement], quoted: Callable[..., bytes]) -> str:
    """All the statements with their arguments filled in by `quoted`, for `try_each`."""
    return ";".join(
        quoted(_executing(statement, ["%s"] * len(given)), tuple(given.values())).decode()
        for statement, given in statements
    )


def _executing(statement: TextClause, arguments: Sequence[str]) -> str:
    """A statement without arguments is too small to be worth preparing."""
    if not arguments:
        return statement.text
    return f"EXECUTE {PREPARED[statement]} ({', '.join(arguments)})"
