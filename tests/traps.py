"""Functions and operators of somebody else's that fit our statements better than PostgreSQL's own.

PostgreSQL prefers a function whose parameters have exactly the types of a call, wherever on the
search path it lies. Who may create functions in the schema of our tables could so have anybody's
statements run their code: `unnest(bigint[])` fits better than the built-in `unnest(anyarray)`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import Connection, text

ROOT = Path(__file__).parents[1]
CALL = re.compile(r"(?<![.\w])([a-z_][a-z_0-9]*)\(")
TYPES = (
    *("bigint", "integer", "numeric", "double precision", "text", "varchar", "name", '"char"'),
    *("boolean", "timestamptz", "interval", "bytea", "jsonb", "oid", "regclass", "bigint[]"),
    *("integer[]", "text[]", "bytea[]", "timestamptz[]"),
)
FEW_TYPES = ("bigint", "integer", "text", "boolean", "timestamptz", "bytea", "bigint[]", "text[]")
OPERATORS = ("=", "<>", "<", ">", "<=", ">=", "+", "-", "||", "&&", "@>", "->", "->>")

# What PostgreSQL has itself with just these types comes first, so that needs no trap.
SET_TRAPS = """
DO $do$
DECLARE
    body text := $$LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''a trap: %I''; END'$$;
    called text[] := {called};
    operators text[] := {operators};
    types text[] := {types};
    few_types text[] := {few_types};
    name text;
    one text;
    other text;
BEGIN
    FOREACH one IN ARRAY types LOOP
        FOREACH name IN ARRAY called LOOP
            EXECUTE format(
                'CREATE FUNCTION %I (secs %s) RETURNS %2$s %3$s', name, one, format(body, name));
        END LOOP;
        FOREACH other IN ARRAY types LOOP
            EXECUTE format(
                'CREATE FUNCTION trap (%s, %s) RETURNS boolean %s',
                one, other, format(body, one || ' ' || other));
            FOREACH name IN ARRAY operators LOOP
                CONTINUE WHEN to_regoperator(
                    format('pg_catalog.%s (%s, %s)', name, one, other)) IS NOT NULL;
                EXECUTE format(
                    'CREATE OPERATOR %s (FUNCTION = trap, LEFTARG = %s, RIGHTARG = %s)',
                    name, one, other);
            END LOOP;
        END LOOP;
    END LOOP;
    FOREACH one IN ARRAY few_types LOOP
        FOREACH other IN ARRAY few_types LOOP
            FOREACH name IN ARRAY called LOOP
                EXECUTE format(
                    'CREATE FUNCTION %I (%s, %s) RETURNS %2$s %4$s',
                    name, one, other, format(body, name));
            END LOOP;
        END LOOP;
    END LOOP;
END $do$
"""


def set_traps(connection: Connection) -> None:
    """Creates, as this user and in the schema `public`, an overload of every function and operator
    that our statements may use, for many types."""
    built_in = connection.scalars(
        text("SELECT DISTINCT proname FROM pg_proc WHERE proname = ANY(:called)"),
        {"called": sorted(called())},
    )
    connection.exec_driver_sql("SET LOCAL search_path = public")
    statement = SET_TRAPS.format(
        called=array(built_in),
        operators=array(OPERATORS),
        types=array(TYPES),
        few_types=array(FEW_TYPES),
    )
    connection.connection.cursor().execute(statement)


def called() -> set[str]:
    """Whatever looks like a call in our statements, among much that is none."""
    sources = [ROOT / "schema.sql", *(ROOT / "consumer").rglob("*.py")]
    return {name for source in sources for name in CALL.findall(source.read_text())}


def array(names: Iterable[str]) -> str:
    return "ARRAY['" + "', '".join(names) + "']"
