"""Laws of the database layer: migrations, transactions and times, on SQLite and PostgreSQL alike."""

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from seedvr2_ray.serve.database import Database
from seedvr2_ray.serve.tables import METADATA


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(database: Database) -> None:
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
