"""What Alembic runs around the steps: on the connection, and in the transaction, that it is given."""

from alembic import context

from seedvr2_ray.serve.db.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite cannot change a column; Alembic then copies the table.
)
with context.begin_transaction():
    context.run_migrations()
