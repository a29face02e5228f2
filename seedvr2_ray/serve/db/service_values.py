"""Values that every process of a deployment shares and that nobody has to choose, such as the key that signs links."""

from collections.abc import Callable

import sqlalchemy as sa

from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.tables import service_values


def shared_value(database: Database, name: str, make: Callable[[], bytes]) -> bytes:
    """Return a value that is made once: whoever asks first makes it, and everybody gets that one."""
    query = sa.select(service_values.c.value).where(service_values.c.name == name)
    with database.reading() as connection:
        value = connection.scalars(query).first()
    if value is not None:
        return bytes(value)
    with database.writing() as connection:
        made = {"name": name, "value": make(), "created_at": database.clock()}
        database.insert_unless_there(connection, service_values, made)
        return bytes(connection.scalars(query).one())
