"""Jobs as rows and as values, and the small values that the job store takes and gives."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypedDict

import sqlalchemy as sa

from seedvr2_ray.errors import InputError
from seedvr2_ray.serve.db.tables import jobs
from seedvr2_ray.serve.jobs import ErrorInfo, Job, JobState, Progress, ResultInfo, Source
from seedvr2_ray.serve.problems import Refusal


class LeaseLost(Refusal):
    """A runner wrote about a job that it does not hold any more. It must drop the job and touch nothing of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """What a submission makes a job of, after every check."""

    owner: str
    source: Source
    settings: dict[str, Any]
    priority: int = 0
    estimated_gpu_seconds: float = 0.0
    webhook_url: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    gang_size: int | None = None
    idempotency_key: str | None = None
    """Of the owner; a second job with it is the first one."""
    request_digest: str | None = None
    """Of the request that brought the key: the key may not be used for another."""


class Changes(TypedDict, total=False):
    """What the runner that holds a job may write about it; each is replaced as a whole."""

    progress: Progress
    source: Source
    content: str
    result_address: str
    """Named while planning already, so that nobody deletes a result that this job is about to use."""
    result: ResultInfo
    error: ErrorInfo
    estimated_gpu_seconds: float
    gpu_seconds: float
    """Of the whole job so far, not of the last step."""
    cost: float


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a list of jobs, newest first."""

    jobs: tuple[Job, ...]
    next_cursor: str | None
    """Gives the next page; ``None`` after the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """How much there is to do; what admission and the gauges go by."""

    num_queued: int
    """Jobs that no runner has taken up yet."""
    queued_gpu_seconds: float
    """Estimated device time of those."""
    remaining_gpu_seconds: float
    """Estimated device time of every unfinished job, less what it has used."""
    num_by_state: Mapping[JobState, int]
    """Unfinished jobs only."""
    oldest_queued_at: datetime | None
    num_unfinished_of_owner: int
    """Of the owner that was asked about; 0 when none was."""
    reserved_gpu_seconds_of_owner: float = 0.0
    """What those will use, or have used already where that is more."""
    used_gpu_seconds_of_owner: float = 0.0
    """By jobs of his that have ended, in the last 24 hours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Renewal:
    """What a runner learns when it renews its claims."""

    lost: frozenset[str]
    """Jobs that it does not hold any more: finished, cancelled, or taken over."""
    cancelled: frozenset[str]
    """Jobs that it holds and that were asked to stop."""


class ArtifactKind(StrEnum):
    """What a job leaves behind and retention deletes, each after a time of its own."""

    INPUTS = "inputs_deleted_at"
    INTERMEDIATES = "intermediates_deleted_at"
    RESULTS = "deleted_at"
    """With its results a job itself is gone for callers."""


def to_job(row: sa.RowMapping) -> Job:
    """Build the value of a row."""
    return Job(
        id=row["id"],
        owner=row["owner"],
        state=JobState(row["state"]),
        source=Source(
            kind=row["source_kind"],
            location=row["source_location"],
            name=row["source_name"],
            num_bytes=row["source_num_bytes"],
        ),
        settings=row["settings"],
        priority=row["priority"],
        created_at=row["created_at"],
        version=row["version"],
        fence=row["fence"],
        runner=row["runner"],
        lease_until=row["lease_until"],
        cancel_requested=row["cancel_requested"],
        delete_requested=row["delete_requested"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        progress=Progress(**row["progress"]),
        estimated_gpu_seconds=row["estimated_gpu_seconds"],
        gpu_seconds=row["gpu_seconds"],
        cost=row["cost"],
        num_tries=row["num_tries"],
        error=None if row["error"] is None else ErrorInfo(**row["error"]),
        result=None if row["result"] is None else ResultInfo(**row["result"]),
        content=row["content"],
        result_address=row["result_address"],
        webhook_url=row["webhook_url"],
        metadata=row["metadata"],
        gang_size=row["gang_size"],
        deleted_at=row["deleted_at"],
    )


def new_row(new: NewJob, job_id: str, now: datetime) -> dict[str, Any]:
    """Build the row of a job that nobody has worked on."""
    return {
        "id": job_id,
        "owner": new.owner,
        "state": JobState.QUEUED.value,
        **_source_columns(new.source),
        "settings": new.settings,
        "priority": new.priority,
        "created_at": now,
        "version": 1,
        "fence": 0,
        "cancel_requested": False,
        "delete_requested": False,
        "progress": asdict(Progress()),
        "estimated_gpu_seconds": new.estimated_gpu_seconds,
        "gpu_seconds": 0.0,
        "cost": 0.0,
        "num_tries": 0,
        "webhook_url": new.webhook_url,
        "metadata": new.metadata,
        "gang_size": new.gang_size,
        "idempotency_key": new.idempotency_key,
        "request_digest": new.request_digest,
    }


def changed_columns(changes: Changes) -> dict[str, Any]:
    """Return the columns that some changes set."""
    columns: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in Changes.__annotations__:
            raise TypeError(
                f"a runner cannot change {name!r} of a job; it can change {sorted(Changes.__annotations__)}"
            )
        if isinstance(value, Source):
            columns |= _source_columns(value)
        elif isinstance(value, Progress | ErrorInfo | ResultInfo):
            columns[name] = asdict(value)
        else:
            columns[name] = value
        if isinstance(value, ResultInfo):
            columns["result_address"] = value.address
    return columns


def to_cursor(job: Job) -> str:
    """Name a job's place in the list, newest first."""
    place = json.dumps([job.created_at.isoformat(), job.id])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> tuple[datetime, str]:
    """Read a place that :func:`to_cursor` named.

    Raises:
        InputError: the text is not such a place.
    """
    try:
        created_at, job_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place = datetime.fromisoformat(created_at)
        if place.tzinfo is None or not isinstance(job_id, str):
            raise ValueError(cursor)
        place = place.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error):
        raise InputError(
            f"cursor {cursor[:80]!r} is not one that a list of jobs gave; "
            "take next_cursor from the last page, or leave it out to start anew"
        ) from None
    return place, job_id


def _source_columns(source: Source) -> dict[str, Any]:
    return {f"source_{name}": value for name, value in asdict(source).items()}


def write_job(connection: sa.Connection, job_id: str, columns: dict[str, Any]) -> Job:
    """Change columns of a job that is there; whoever watches it sees a new version."""
    update = sa.update(jobs).where(jobs.c.id == job_id).values(version=jobs.c.version + 1, **columns).returning(jobs)
    return to_job(connection.execute(update).mappings().one())
