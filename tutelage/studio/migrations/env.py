"""Alembic's entry: migrations run in the transaction that the store hands over, for SQLite in batch mode."""

from alembic import context

from tutelage.studio.schema import VERSIONS, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    version_table=VERSIONS,
)
with context.begin_transaction():
    context.run_migrations()
