"""Jobs say how many GPUs their caller wants to work together."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; jobs that are there leave it to their plan."""
    op.add_column("jobs", sa.Column("gang_size", sa.Integer, nullable=True))
