"""Alembic's entry: runs the migrations in the connection that `Ledger.migrate` hands over."""

from alembic import context

from radnode.state.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
