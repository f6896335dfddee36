"""The models say what `schema.sql` says."""

from sqlalchemy import Engine, inspect

from mirrorfeed.consumer.migrations import bring_forward
from mirrorfeed.consumer.tables import Base


def test_the_models_have_the_columns_of_the_schema(engine: Engine) -> None:
    """Names, types and nullability; `schema.sql` is the one source of their shape."""
    inspector = inspect(engine)
    tables = Base.metadata.tables
    plain = {"ledger_arrival", "ledger_source", "ledger_range", "topology", "worker"}
    plain |= {"schema_version", "suspect"}
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
    """It changes nothing that is there."""
    bring_forward(engine)
