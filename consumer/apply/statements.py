"""The applier's statements, prepared once a connection: a transaction of one event takes 1.0 ms so,
and 1.8 when PostgreSQL parses and plans each of them again.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from time import monotonic

from psycopg2.errors import InvalidSqlStatementName
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.ledger import RECORD
from mirrorfeed.consumer.apply.projection import APPLY_ATTEMPTS, PROJECT_BRANCHES, UPSERT_ATTEMPTS

INSERT_SCRIPT_ACTIVITY = text("""
    INSERT INTO script_activity (name, hostname, date_started, date_completed)
    SELECT * FROM json_to_recordset(CAST(:runs AS json)) AS run (
        name text, hostname text, started_at timestamptz, completed_at timestamptz)
    ON CONFLICT DO NOTHING
""")

PREPARED = {
    APPLY_ATTEMPTS: "apply_attempts",
    UPSERT_ATTEMPTS: "upsert_attempts",
    PROJECT_BRANCHES: "project_branches",
    INSERT_SCRIPT_ACTIVITY: "insert_script_activity",
    RECORD: "record",
}
"""What a batch may execute, and the name that it has in the session."""

PLAN_SECONDS = 1.0
"""How long a plan is kept: one from when a table was small may read it whole, which takes seconds
once it is large, and PostgreSQL keeps that plan until it has new statistics."""

DISCARD_PLANS = text("DISCARD PLANS")

Statement = tuple[TextClause, Mapping[str, object]]
"""One of them, or one without arguments, and what it is given."""


def prepare(connection: Connection) -> None:
    """Makes sure that the session has the statements prepared, and no old plan of them.

    What is prepared outlives the transaction, even one that is rolled back.
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
    """Whether that went wrong because the session has prepared nothing, as a pooler's may: then
    `prepare` will do it again."""
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
    # What was prepared stays, too, if the next preparation fails.
    return [text(each) for each in ["DEALLOCATE ALL", *preparations]]


@cache
def as_trial(statements: tuple[tuple[TextClause, *tuple[str, ...]], ...]) -> TextClause:
    """All the statements, each with the names of its arguments, as one that UNDO_TRIAL undoes."""
    texts = [
        _executing(statement, [f":{name}" for name in names]) for statement, *names in statements
    ]
    return text(";".join(["SAVEPOINT trial", *texts]))


UNDO_TRIAL = text("ROLLBACK TO SAVEPOINT trial; RELEASE SAVEPOINT trial")


def as_script(statements: Sequence[Statement], quoted: Callable[..., bytes]) -> str:
    """All the statements with their arguments in them, for `try_each`; `quoted` fills these in."""
    return ";".join(
        quoted(_executing(statement, ["%s"] * len(given)), tuple(given.values())).decode()
        for statement, given in statements
    )


def _executing(statement: TextClause, arguments: Sequence[str]) -> str:
    """What takes no arguments is too little to be worth preparing."""
    if not arguments:
        return statement.text
    return f"EXECUTE {PREPARED[statement]} ({', '.join(arguments)})"
