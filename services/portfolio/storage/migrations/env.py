"""Runs migrations on the connection that the router hands over, or on DATABASE_URL."""

from alembic import context

from services.portfolio.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
