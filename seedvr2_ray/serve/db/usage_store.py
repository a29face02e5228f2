"""What was used, by whom and when: records that are only ever added, and that outlive the jobs they speak of."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.tables import usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """Device time that some work took."""

    reference: str
    """Names the work, so that reporting it twice counts once: a job's id and fence, or a segment's address."""
    owner: str
    job_id: str
    model: str
    gpu_seconds: float
    megapixels: float
    """Restored: output pixels times frames, in millions."""
    output_seconds: float
    cost: float
    at: datetime | None = None
    """By default the moment of recording."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageOfDay:
    """What one owner used on one day (UTC)."""

    owner: str
    day: date
    num_records: int
    gpu_seconds: float
    megapixels: float
    output_seconds: float
    cost: float


class UsageStore:
    """Every record of a deployment."""

    def __init__(self, database: Database) -> None:
        """Keep records in a migrated database."""
        self._database = database

    def record(self, use: Use) -> bool:
        """Add a record; say whether it is new."""
        at = (use.at or self._database.clock()).astimezone(UTC)
        values = {**asdict(use), "at": at, "day": at.date().isoformat()}
        with self._database.writing() as connection:
            return self._database.insert_unless_there(connection, usage, values) is not None

    def by_day(
        self, *, owner: str | None = None, since: datetime, until: datetime | None = None
    ) -> Sequence[UsageOfDay]:
        """Sum up per owner and day, the earliest day first.

        Args:
            owner: whose; ``None`` for everybody's.
            since: the first moment that counts.
            until: the first that does not count any more; by default there is none.
        """
        sums = [sa.func.sum(usage.c[name]).label(name) for name in _SUMMED]
        query = (
            sa.select(usage.c.owner, usage.c.day, sa.func.count().label("num_records"), *sums)
            .where(usage.c.at >= since)
            .group_by(usage.c.owner, usage.c.day)
            .order_by(usage.c.day, usage.c.owner)
        )
        if owner is not None:
            query = query.where(usage.c.owner == owner)
        if until is not None:
            query = query.where(usage.c.at < until)
        with self._database.reading() as connection:
            return [_to_day(row) for row in connection.execute(query).mappings()]

    def gpu_seconds(self, owner: str, *, since: datetime) -> float:
        """Sum up the device time of an owner; what quotas go by."""
        query = sa.select(sa.func.coalesce(sa.func.sum(usage.c.gpu_seconds), 0.0)).where(
            usage.c.owner == owner, usage.c.at >= since
        )
        with self._database.reading() as connection:
            return float(connection.scalars(query).one())

    def gpu_seconds_by_owner(self, *, since: datetime) -> dict[str, float]:
        """Sum up the device time of every owner who has used any; what the fair share goes by."""
        query = (
            sa.select(usage.c.owner, sa.func.sum(usage.c.gpu_seconds).label("total"))
            .where(usage.c.at >= since)
            .group_by(usage.c.owner)
        )
        with self._database.reading() as connection:
            return {row.owner: row.total for row in connection.execute(query)}

    def recent_work(self, model: str, *, num_jobs: int = 20) -> tuple[float, float]:
        """Sum up the megapixels that a model restored in its latest jobs, and the device time that took."""
        latest = (
            sa.select(usage.c.megapixels, usage.c.gpu_seconds)
            .where(usage.c.model == model, usage.c.megapixels > 0)
            .order_by(usage.c.at.desc())
            .limit(num_jobs)
            .subquery()
        )
        sums = [sa.func.coalesce(sa.func.sum(latest.c[name]), 0.0) for name in ("megapixels", "gpu_seconds")]
        with self._database.reading() as connection:
            megapixels, gpu_seconds = connection.execute(sa.select(*sums)).one()
        return float(megapixels), float(gpu_seconds)

    def of_job(self, job_id: str) -> Sequence[Use]:
        """Return the records of a job, the earliest first; also after the job was deleted."""
        query = sa.select(usage).where(usage.c.job_id == job_id).order_by(usage.c.at, usage.c.reference)
        with self._database.reading() as connection:
            return [_to_use(row) for row in connection.execute(query).mappings()]


_SUMMED = ("gpu_seconds", "megapixels", "output_seconds", "cost")


def _to_day(row: sa.RowMapping) -> UsageOfDay:
    sums: dict[str, Any] = {name: row[name] for name in _SUMMED}
    return UsageOfDay(owner=row["owner"], day=date.fromisoformat(row["day"]), num_records=row["num_records"], **sums)


def _to_use(row: sa.RowMapping) -> Use:
    sums: dict[str, Any] = {name: row[name] for name in _SUMMED}
    return Use(
        reference=row["reference"],
        owner=row["owner"],
        job_id=row["job_id"],
        model=row["model"],
        at=row["at"],
        **sums,
    )
