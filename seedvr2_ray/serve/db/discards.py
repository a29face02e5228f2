"""Results that are being deleted: noted in the database, so that no job begins to use one meanwhile.

Whoever deletes looks whether anybody uses the result and notes it in one transaction; whoever is about to use it says
so in one that looks for the note. Of both, one comes first, and the other sees it.
"""

from datetime import timedelta

import sqlalchemy as sa

from seedvr2_ray.errors import RetryableError
from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.job_order import has_left
from seedvr2_ray.serve.db.tables import jobs, service_values

_PURPOSE = 0x5EED_0004
_BELIEVED = timedelta(minutes=10)
"""A note that is older was left by a process that was ended; the next sweep writes a new one."""


def begin_discard(database: Database, address: str, *, besides: str) -> bool:
    """Note that a result is about to be deleted, unless a job other than ``besides`` uses it; say whether it may be."""
    in_use = sa.select(jobs.c.id).where(jobs.c.result_address == address, sa.not_(has_left), jobs.c.id != besides)
    with database.writing() as connection:
        database.serialise(connection, _PURPOSE)
        if connection.execute(in_use.limit(1)).first() is not None:
            return False
        connection.execute(sa.delete(service_values).where(service_values.c.name == _name(address)))
        note = {"name": _name(address), "value": b"", "created_at": database.clock()}
        connection.execute(sa.insert(service_values).values(note))
        return True


def end_discard(database: Database, address: str) -> None:
    """Note that a result has been deleted; it may be made anew."""
    with database.writing() as connection:
        connection.execute(sa.delete(service_values).where(service_values.c.name == _name(address)))


def require_staying(database: Database, connection: sa.Connection, address: str) -> None:
    """Refuse to use a result that is being deleted.

    Args:
        connection: of the transaction that says which job uses it.

    Raises:
        RetryableError: it is; a moment later it can be made anew.
    """
    database.serialise(connection, _PURPOSE)
    noted = sa.select(service_values.c.name).where(
        service_values.c.name == _name(address), service_values.c.created_at > database.clock() - _BELIEVED
    )
    if connection.execute(noted).first() is not None:
        raise RetryableError("the result is being deleted at this moment; plan the job again")


def _name(address: str) -> str:
    return f"discarding {address}"
