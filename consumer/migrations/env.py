"""Where Alembic runs the revisions: on the given connection or, without one, as SQL to print."""

from alembic import context

from mirrorfeed.consumer.migrations import VERSION_TABLE

connection = context.config.attributes["connection"]
if context.is_offline_mode():
    context.configure(dialect_name="postgresql", version_table=VERSION_TABLE, as_sql=True)
else:
    context.configure(connection=connection, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
