"""What a job is, its states, and which of them may follow which. No database, no Ray, no HTTP."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from seedvr2_ray.serve.problems import ConflictRefusal


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    """Waits for a runner."""
    PLANNING = "planning"
    """Its source is fetched, probed and planned."""
    RESTORING = "restoring"
    """Its segments are with replicas, or wait for one; those that are restored are being finished."""
    ASSEMBLING = "assembling"
    """All segments are finished; they are joined and published."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return not TRANSITIONS[self]

    @property
    def is_active(self) -> bool:
        """Whether a runner is, or was, at work on it."""
        return self in (JobState.PLANNING, JobState.RESTORING, JobState.ASSEMBLING)


_ENDS = frozenset({JobState.FAILED, JobState.CANCELLED})
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.PLANNING}) | _ENDS,
    # A result that is there already completes a job without restoring; a job whose parts are all there is joined.
    JobState.PLANNING: frozenset({JobState.RESTORING, JobState.ASSEMBLING, JobState.COMPLETED}) | _ENDS,
    JobState.RESTORING: frozenset({JobState.PLANNING, JobState.ASSEMBLING}) | _ENDS,
    JobState.ASSEMBLING: frozenset({JobState.PLANNING, JobState.COMPLETED}) | _ENDS,
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
"""Legal steps. A job that lost its runner is planned again, from what is committed."""

UNFINISHED = frozenset(state for state, following in TRANSITIONS.items() if following)


def require_transition(job_id: str, before: JobState, after: JobState) -> None:
    """Refuse a step that is not in the table.

    Raises:
        ConflictRefusal: ``after`` may not follow ``before``.
    """
    if after not in TRANSITIONS[before]:
        allowed = ", ".join(sorted(TRANSITIONS[before])) or "nothing"
        raise ConflictRefusal(f"job {job_id} is {before} and cannot become {after}; after {before} comes {allowed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a job's bytes come from."""

    kind: Literal["upload", "url", "object"]
    location: str
    """Id of the upload; or the URL, which may hold credentials and is never shown."""
    name: str
    """File name to show and to name the result after."""
    num_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What is known while a job runs. Small; replaced as a whole."""

    segments_done: int = 0
    segments_total: int = 0
    frames_done: int = 0
    frames_total: int = 0
    frames_per_second: float = 0.0
    seconds_left: float | None = None
    has_preview: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorInfo:
    """Why a job failed, as its owner may read it."""

    kind: str
    """Name of a row of :data:`seedvr2_ray.serve.problems.PROBLEMS`."""
    detail: str
    remedy: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultInfo:
    """A published master."""

    address: str
    """Of the result in the store of results; equal for equal sources and settings."""
    name: str
    media_type: str
    num_bytes: int
    sha256: str
    width: int
    height: int
    num_frames: int
    was_cached: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A row of the job table as a value."""

    id: str
    owner: str
    state: JobState
    source: Source
    settings: dict[str, Any]
    """As :meth:`seedvr2_ray.settings.RestoreSettings.to_mapping` gives them, ``model`` resolved."""
    priority: int
    """-10..10; more is sooner, within the owner's fair share."""
    created_at: datetime
    """UTC, like every time here."""
    version: int
    """Grows with every change; what event streams wait for."""
    fence: int = 0
    """Grows with every claim; a write with an older one is refused."""
    runner: str | None = None
    lease_until: datetime | None = None
    cancel_requested: bool = False
    delete_requested: bool = False
    """Its data is to be deleted as soon as nobody works on it."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress = field(default_factory=Progress)
    estimated_gpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    cost: float = 0.0
    num_tries: int = 0
    """Times that a runner took it up."""
    error: ErrorInfo | None = None
    result: ResultInfo | None = None
    content: str | None = None
    """``sha256-...`` of the source's bytes, once known; names the folder of its intermediates."""
    result_address: str | None = None
    """Of the result to be, once planned; its stills lie there before the result does."""
    webhook_url: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """Kept for the caller and the other APIs; means nothing here. At most 4 KiB as JSON."""
    gang_size: int | None = None
    """GPUs that its caller wants to restore a segment together; None leaves it to the plan."""
    deleted_at: datetime | None = None
