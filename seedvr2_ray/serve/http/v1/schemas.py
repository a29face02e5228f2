"""The bodies of API v1: what callers send and what they see of jobs, uploads, models and estimates."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from seedvr2_ray.serve.jobs import Job, JobState, ResultInfo, Source
from seedvr2_ray.serve.security.links import SignedLinks
from seedvr2_ray.serve.security.wording import for_customers
from seedvr2_ray.serve.service.estimate import JobEstimate
from seedvr2_ray.serve.service.job_watch import Snapshot
from seedvr2_ray.serve.service.submission import LONGEST_URL, PRIORITIES, Submission
from seedvr2_ray.storage.faults import printable

Priority = Annotated[int, Field(ge=PRIORITIES[0], le=PRIORITIES[-1], strict=True)]
GangSize = Annotated[int, Field(ge=1, le=64, strict=True)] | None


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UploadSource(_Request):
    """A file that was uploaded before."""

    upload: str = Field(min_length=1, max_length=100, description="Id of a complete upload.")


class UrlSource(_Request):
    """A file that the service fetches."""

    url: str = Field(
        min_length=1, max_length=LONGEST_URL, description="http(s), or an object store's that is allowed here."
    )


class JobRequest(_Request):
    """A job to be, or to be estimated."""

    source: UploadSource | UrlSource
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Any of RestoreSettings; unknown ones are refused."
    )
    priority: Priority = 0
    webhook_url: str | None = Field(default=None, max_length=LONGEST_URL)
    metadata: dict[str, Any] = Field(default_factory=dict, description="Kept for you; at most 4 KiB as JSON.")
    gang_size: GangSize = Field(
        default=None,
        description="GPUs that restore a segment together; by default the fewest that can. Changes no picture.",
    )

    def to_submission(self, *, idempotency_key: str | None = None) -> Submission:
        """Translate for the service."""
        return Submission(
            upload_id=self.source.upload if isinstance(self.source, UploadSource) else None,
            url=self.source.url if isinstance(self.source, UrlSource) else None,
            settings=self.settings,
            priority=self.priority,
            webhook_url=self.webhook_url,
            metadata=self.metadata,
            gang_size=self.gang_size,
            idempotency_key=idempotency_key,
        )


class JobForm(_Request):
    """What stands beside the file of a multipart submission; each a field of the form."""

    settings: dict[str, Any] = Field(default_factory=dict)
    priority: Priority = 0
    webhook_url: str | None = Field(default=None, max_length=LONGEST_URL)
    metadata: dict[str, Any] = Field(default_factory=dict)
    gang_size: GangSize = None


class UploadRequest(_Request):
    """A file that will be sent straight to the object store."""

    name: str = Field(min_length=1, max_length=255)
    num_bytes: int = Field(ge=1, strict=True)


class SourceView(BaseModel):
    """Where a job's file came from; URLs without whatever in them is secret."""

    kind: Literal["upload", "url", "object"]
    name: str
    num_bytes: int | None
    url: str | None = None
    upload: str | None = Field(default=None, description="Of an upload; another job can be made of it.")

    @classmethod
    def of(cls, source: Source) -> "SourceView":
        """Show a source."""
        url = None if source.kind == "upload" else printable(source.location)
        upload = (source.location or None) if source.kind == "upload" else None
        return cls(kind=source.kind, name=source.name, num_bytes=source.num_bytes, url=url, upload=upload)


class ProgressView(BaseModel):
    """How far a job is."""

    queue_position: int | None = Field(description="1 is the next; null once it is not queued.")
    segments_done: int
    segments_total: int
    frames_done: int
    frames_total: int
    frames_per_second: float
    seconds_left: float | None
    has_preview: bool


class EstimateOfJob(BaseModel):
    """What was expected of a job when it was submitted."""

    gpu_seconds: float


class UsageOfJob(BaseModel):
    """What a job has used so far."""

    gpu_seconds: float
    cost: float


class ResultView(BaseModel):
    """A finished file."""

    name: str
    media_type: str
    num_bytes: int
    sha256: str
    width: int
    height: int
    num_frames: int
    was_cached: bool

    @classmethod
    def of(cls, result: ResultInfo) -> "ResultView":
        """Show a result, without its address in the store."""
        values = asdict(result)
        del values["address"]
        return cls(**values)


class ErrorView(BaseModel):
    """Why a job failed."""

    kind: str
    detail: str
    remedy: str


class LinksView(BaseModel):
    """Where to go from a job. All but ``self`` are signed: whoever holds one may read, for some hours."""

    self: str
    events: str
    socket: str
    result: str | None
    report: str | None
    provenance: str | None
    before: str | None
    after: str | None


class JobView(BaseModel):
    """A job as its owner sees it."""

    id: str
    state: JobState
    version: int = Field(description="Grows with every change.")
    name: str
    model: str
    priority: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    source: SourceView
    settings: dict[str, Any]
    metadata: dict[str, Any]
    progress: ProgressView
    estimate: EstimateOfJob
    usage: UsageOfJob
    result: ResultView | None
    error: ErrorView | None
    links: LinksView


class JobList(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[JobView]
    next_cursor: str | None = Field(description="Gives the next page; null after the last.")


class NoticeView(BaseModel):
    """What will happen to something found in the file."""

    outcome: Literal["kept", "converted", "left_out", "refused"]
    subject: str
    reason: str


class EstimateView(BaseModel):
    """What a job would take and cost."""

    segments: int = Field(description="At least so many; cuts between shots add to them.")
    frames: int = Field(description="That go through the model: those of the source and the overlaps of segments.")
    width: int = Field(description="Of the result, in pixels.")
    height: int
    source_width: int = Field(description="Of the source's pictures as they are stored, in pixels.")
    source_height: int
    seconds: float = Field(description="Of restoring, once begun.")
    gpu_seconds: float
    cost: float = Field(description="At the deployment's price of a GPU hour.")
    queue_seconds: float = Field(description="Until it would be begun, judging by what waits now.")
    gang_size: int = Field(description="GPUs that restore a segment together.")
    gib_per_gpu: float | None = Field(
        description="Predicted, of each of them at its fullest; null where the deployment has not said what they hold."
    )
    notices: list[NoticeView]
    refusals: list[str] = Field(description="Why it would be refused now; empty when it would be taken.")

    @classmethod
    def of(cls, estimate: JobEstimate) -> "EstimateView":
        """Show an estimate."""
        return cls(
            segments=estimate.segments,
            frames=estimate.frames,
            width=estimate.width,
            height=estimate.height,
            source_width=estimate.source_width,
            source_height=estimate.source_height,
            seconds=round(estimate.seconds, 3),
            gpu_seconds=round(estimate.gpu_seconds, 3),
            cost=round(estimate.cost, 6),
            queue_seconds=round(estimate.queue_seconds, 3),
            gang_size=estimate.gang_size,
            gib_per_gpu=None if estimate.bytes_per_gpu is None else round(estimate.bytes_per_gpu / 2**30, 2),
            notices=[
                NoticeView(outcome=each.outcome, subject=each.subject, reason=for_customers(each.reason))
                for each in estimate.notices
            ],
            refusals=list(estimate.refusals),
        )


class ModelView(BaseModel):
    """A model that jobs may name."""

    name: str
    summary: str
    licence: str
    is_default: bool = Field(description="Whether `auto` means it.")
    max_replicas: int
    num_gpus: float
    gang_size: int
    price_per_gpu_hour: float


class ModelList(BaseModel):
    """The models of this deployment, the default first."""

    models: list[ModelView]


def view_of(snapshot: Snapshot, links: SignedLinks) -> JobView:
    """Show a job to its owner."""
    job = snapshot.job
    return JobView(
        id=job.id,
        state=job.state,
        version=job.version,
        name=job.source.name,
        model=str(job.settings.get("model", "auto")),
        priority=job.priority,
        created_at=_utc(job.created_at),
        started_at=job.started_at and _utc(job.started_at),
        finished_at=job.finished_at and _utc(job.finished_at),
        cancel_requested=job.cancel_requested,
        source=SourceView.of(job.source),
        settings=job.settings,
        metadata=job.metadata,
        progress=_progress_of(snapshot),
        estimate=EstimateOfJob(gpu_seconds=round(job.estimated_gpu_seconds, 3)),
        usage=UsageOfJob(gpu_seconds=round(job.gpu_seconds, 3), cost=round(job.cost, 6)),
        result=None if job.result is None else ResultView.of(job.result),
        error=None if job.error is None else ErrorView(**asdict(job.error)),
        links=_links_of(job, links),
    )


def _progress_of(snapshot: Snapshot) -> ProgressView:
    progress = snapshot.job.progress
    return ProgressView(
        queue_position=snapshot.queue_position,
        segments_done=progress.segments_done,
        segments_total=progress.segments_total,
        frames_done=progress.frames_done,
        frames_total=progress.frames_total,
        frames_per_second=round(progress.frames_per_second, 3),
        seconds_left=None if progress.seconds_left is None else round(progress.seconds_left, 1),
        has_preview=progress.has_preview,
    )


def _links_of(job: Job, links: SignedLinks) -> LinksView:
    path = f"/v1/jobs/{job.id}"
    has_preview = job.progress.has_preview
    has_result = job.result is not None
    return LinksView(
        self=path,
        events=links.sign(f"{path}/events"),
        socket=links.sign(f"{path}/socket"),
        result=links.sign(f"{path}/result") if has_result else None,
        report=links.sign(f"{path}/report") if has_result else None,
        provenance=links.sign(f"{path}/provenance") if has_result else None,
        before=links.sign(f"{path}/preview/before") if has_preview else None,
        after=links.sign(f"{path}/preview/after") if has_preview else None,
    )


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
