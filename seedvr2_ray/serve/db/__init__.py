"""The database: tables, migrations, and one store per kind of row."""
