"""Bringing the tables of a database up to date."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from seedvr2_ray.errors import DeploymentError


def upgrade(connection: sa.Connection, *, name: str) -> None:
    """Run the steps that are missing, in the caller's transaction.

    Args:
        name: of the database, for people.

    Raises:
        DeploymentError: a newer version of this software has migrated it.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise DeploymentError(
            f"the database {name} is not one that this version knows ({error}); a newer seedvr2-ray may have used it: "
            "install that version, or name another database"
        ) from error
