"""Runs migrations on the connection that the router hands over, or on DATABASE_URL."""

from alembic import context

from services.portfolio.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    # What takes long takes weak locks, and must not keep the strong ones of what came before it.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
