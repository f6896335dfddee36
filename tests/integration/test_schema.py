"""The models say what `schema.sql` says."""

from typing import Any

from sqlalchemy import Engine, inspect

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.ledger import fold
from mirrorfeed.consumer.migrations import bring_forward
from mirrorfeed.consumer.tables import Base
from mirrorfeed.contract.events import MirrorStarted
from tests.builders import at, completed, envelope, messages, script_run, started
from tests.servers import register_branches, rows


def test_the_models_have_the_columns_of_the_schema(engine: Engine) -> None:
    """Names, types and nullability are those of `schema.sql`."""
    inspector = inspect(engine)
    tables = Base.metadata.tables
    plain = {"ledger_arrival", "ledger_range", "ledger_decision", "ledger_forgotten", "source"}
    plain |= {"ledger_event", "letter_overflow", "pruned_attempts", "schema_version", "suspect"}
    plain |= {"topology", "worker", "operation", "operation_piece"}
    assert set(inspector.get_table_names()) - plain == set(tables)
    for name, table in tables.items():
        declared = {
            column.name: (column.type.compile(engine.dialect), column.nullable)
            for column in table.columns
        }
        actual = {
            column["name"]: (column["type"].compile(engine.dialect), column["nullable"])
            for column in inspector.get_columns(name)
        }
        assert declared == actual, name


def test_the_schema_can_be_applied_again(engine: Engine) -> None:
    """It leaves every table, index, constraint and row as it was."""
    register_branches(engine, 1)
    applier = Applier(engine)
    applier.apply(messages(completed(1, 0, "rev-1"), script_run("gc", 0, 1), started(404, 0)))
    for sequence in (1, 2):
        fold(engine)
        applier.apply(messages(envelope(MirrorStarted(1, at(1)), sequence=sequence)))
    before = contents(engine)
    assert {name for name, found in before.items() if not found} == {
        "suspect",
        "worker",
        "letter_overflow",
        "pruned_attempts",
        "ledger_decision",
        "ledger_forgotten",
        "operation",
        "operation_piece",
    }
    bring_forward(engine)
    assert contents(engine) == before


def contents(engine: Engine) -> dict[str, list[Any]]:
    """All rows of each table, and what the catalog says of each table's shape."""
    found: dict[str, list[Any]] = {
        "tables and indexes": rows(
            engine,
            # A relation that was made again, or written again, has other numbers.
            "SELECT relname, oid, relfilenode FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace ORDER BY oid",
        ),
        "columns": rows(
            engine,
            "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod),"
            " attnotnull, pg_get_expr(adbin, adrelid)"
            " FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
            " LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
            " WHERE relnamespace = 'public'::regnamespace ORDER BY attrelid, attnum",
        ),
        "constraints": rows(
            engine,
            "SELECT oid, conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace ORDER BY oid",
        ),
    }
    for table in inspect(engine).get_table_names():
        found[table] = rows(engine, f"SELECT to_jsonb({table}) FROM {table} ORDER BY 1")
    return found
