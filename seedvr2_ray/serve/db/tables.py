"""The tables of the service. Migrations make them; a test holds both against each other."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

REVISION = "0002"
"""Of the last migration: a database that names it has these tables."""


class UtcTime(sa.types.TypeDecorator[datetime]):
    """A moment, always aware and in UTC. SQLite would forget the zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuse times without a zone: they would mean something else on every machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Give the time its zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _required(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _optional(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


jobs = sa.Table(
    "jobs",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    _required("owner", sa.String),
    _required("state", sa.String),
    _required("source_kind", sa.String),
    _required("source_location", sa.String),
    _required("source_name", sa.String),
    _optional("source_num_bytes", sa.BigInteger),
    _required("settings", _JSON),
    _required("priority", sa.Integer),
    _required("created_at", UtcTime),
    _required("version", sa.Integer),
    _required("fence", sa.Integer),
    _optional("runner", sa.String),
    _optional("lease_until", UtcTime),
    _required("cancel_requested", sa.Boolean),
    _required("delete_requested", sa.Boolean),
    _optional("started_at", UtcTime),
    _optional("finished_at", UtcTime),
    _required("progress", _JSON),
    _required("estimated_gpu_seconds", sa.Double),
    _required("gpu_seconds", sa.Double),
    _required("cost", sa.Double),
    _required("num_tries", sa.Integer),
    _optional("error", _JSON),
    _optional("result", _JSON),
    _optional("result_address", sa.String),
    _optional("content", sa.String),
    _optional("webhook_url", sa.String),
    _required("metadata", _JSON),
    _optional("idempotency_key", sa.String),
    _optional("request_digest", sa.String),
    _optional("inputs_deleted_at", UtcTime),
    _optional("intermediates_deleted_at", UtcTime),
    _optional("deleted_at", UtcTime),
    _optional("gang_size", sa.Integer),
    sa.UniqueConstraint("owner", "idempotency_key"),
    sa.Index(None, "owner", "created_at", "id"),
    sa.Index(None, "created_at", "id"),
    sa.Index(None, "state"),
    sa.Index(None, "finished_at"),
    sa.Index(None, "result_address"),
    sa.Index(None, "content"),
    sa.Index(None, "source_location"),
)

uploads = sa.Table(
    "uploads",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    _required("owner", sa.String),
    _required("name", sa.String),
    _required("state", sa.String),
    _optional("num_bytes", sa.BigInteger),
    _required("num_received", sa.BigInteger),
    _optional("sha256", sa.String),
    _required("created_at", UtcTime),
    _required("changed_at", UtcTime),
    sa.Index(None, "owner"),
    sa.Index(None, "state", "changed_at"),
)

usage = sa.Table(
    "usage",
    METADATA,
    sa.Column("reference", sa.String, primary_key=True),
    _required("owner", sa.String),
    _required("job_id", sa.String),
    _required("model", sa.String),
    _required("gpu_seconds", sa.Double),
    _required("megapixels", sa.Double),
    _required("output_seconds", sa.Double),
    _required("cost", sa.Double),
    _required("at", UtcTime),
    _required("day", sa.String),
    sa.Index(None, "owner", "at"),
    sa.Index(None, "at"),
    sa.Index(None, "job_id"),
)

api_keys = sa.Table(
    "api_keys",
    METADATA,
    sa.Column("prefix", sa.String, primary_key=True),
    _required("digest", sa.String),
    _required("owner", sa.String),
    _required("scopes", _JSON),
    _required("name", sa.String),
    _required("created_at", UtcTime),
    _optional("expires_at", UtcTime),
    _optional("revoked_at", UtcTime),
    _optional("last_used_at", UtcTime),
    sa.Index(None, "owner"),
)

webhooks = sa.Table(
    "webhooks",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    _required("job_id", sa.String),
    _required("url", sa.String),
    _required("event", sa.String),
    _required("state", sa.String),
    _required("created_at", UtcTime),
    _required("num_tries", sa.Integer),
    _optional("next_try_at", UtcTime),
    _optional("lease_until", UtcTime),
    _optional("delivered_at", UtcTime),
    _optional("last_error", sa.String),
    sa.UniqueConstraint("job_id", "event"),
    sa.Index(None, "state", "next_try_at"),
)

service_values = sa.Table(
    "service_values",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    _required("value", sa.LargeBinary),
    _required("created_at", UtcTime),
)
