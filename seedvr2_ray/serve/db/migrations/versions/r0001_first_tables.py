"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "api_keys",
        sa.Column("prefix", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("scopes", _JSON, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=True),
        sa.Column("revoked_at", _TIME, nullable=True),
        sa.Column("last_used_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("prefix", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_owner", "api_keys", ["owner"])

    op.create_table(
        "jobs",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("source_kind", sa.String, nullable=False),
        sa.Column("source_location", sa.String, nullable=False),
        sa.Column("source_name", sa.String, nullable=False),
        sa.Column("source_num_bytes", sa.BigInteger, nullable=True),
        sa.Column("settings", _JSON, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("runner", sa.String, nullable=True),
        sa.Column("lease_until", _TIME, nullable=True),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("delete_requested", sa.Boolean, nullable=False),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.Column("progress", _JSON, nullable=False),
        sa.Column("estimated_gpu_seconds", sa.Double, nullable=False),
        sa.Column("gpu_seconds", sa.Double, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
        sa.Column("num_tries", sa.Integer, nullable=False),
        sa.Column("error", _JSON, nullable=True),
        sa.Column("result", _JSON, nullable=True),
        sa.Column("result_address", sa.String, nullable=True),
        sa.Column("content", sa.String, nullable=True),
        sa.Column("webhook_url", sa.String, nullable=True),
        sa.Column("metadata", _JSON, nullable=False),
        sa.Column("idempotency_key", sa.String, nullable=True),
        sa.Column("request_digest", sa.String, nullable=True),
        sa.Column("inputs_deleted_at", _TIME, nullable=True),
        sa.Column("intermediates_deleted_at", _TIME, nullable=True),
        sa.Column("deleted_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("owner", "idempotency_key", name="uq_jobs_owner_idempotency_key"),
    )
    op.create_index("ix_jobs_content", "jobs", ["content"])
    op.create_index("ix_jobs_created_at_id", "jobs", ["created_at", "id"])
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"])
    op.create_index("ix_jobs_owner_created_at_id", "jobs", ["owner", "created_at", "id"])
    op.create_index("ix_jobs_result_address", "jobs", ["result_address"])
    op.create_index("ix_jobs_source_location", "jobs", ["source_location"])
    op.create_index("ix_jobs_state", "jobs", ["state"])

    op.create_table(
        "service_values",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_service_values"),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("num_bytes", sa.BigInteger, nullable=True),
        sa.Column("num_received", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("changed_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_owner", "uploads", ["owner"])
    op.create_index("ix_uploads_state_changed_at", "uploads", ["state", "changed_at"])

    op.create_table(
        "usage",
        sa.Column("reference", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("gpu_seconds", sa.Double, nullable=False),
        sa.Column("megapixels", sa.Double, nullable=False),
        sa.Column("output_seconds", sa.Double, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("day", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("reference", name="pk_usage"),
    )
    op.create_index("ix_usage_at", "usage", ["at"])
    op.create_index("ix_usage_job_id", "usage", ["job_id"])
    op.create_index("ix_usage_owner_at", "usage", ["owner", "at"])

    op.create_table(
        "webhooks",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("event", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("num_tries", sa.Integer, nullable=False),
        sa.Column("next_try_at", _TIME, nullable=True),
        sa.Column("lease_until", _TIME, nullable=True),
        sa.Column("delivered_at", _TIME, nullable=True),
        sa.Column("last_error", sa.String, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
        sa.UniqueConstraint("job_id", "event", name="uq_webhooks_job_id_event"),
    )
    op.create_index("ix_webhooks_state_next_try_at", "webhooks", ["state", "next_try_at"])


def downgrade() -> None:
    """Drop them, and every job with them."""
    for table in ("api_keys", "jobs", "service_values", "uploads", "usage", "webhooks"):
        op.drop_table(table)
