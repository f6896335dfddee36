"""Where Alembic runs the revisions: on the given connection or, without one, as SQL to print."""

from alembic import context

from mirrorfeed.consumer.migrations import VERSION_TABLE

connection = context.config.attributes["connection"]
where = {
    "version_table": VERSION_TABLE,
    "version_table_schema": context.config.attributes["schema"],
}
if context.is_offline_mode():
    context.configure(dialect_name="postgresql", as_sql=True, **where)
else:
    context.configure(connection=connection, **where)
with context.begin_transaction():
    context.run_migrations()
