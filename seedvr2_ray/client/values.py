"""What a service says, as values. Fields that a newer service adds are passed over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from seedvr2_ray.client.errors import error_of_kind, in_sentences
from seedvr2_ray.errors import DeploymentError, InputError
from seedvr2_ray.html import render_bar, render_facts, render_grid

JobState = Literal["queued", "planning", "restoring", "assembling", "completed", "failed", "cancelled"]
_FINAL = frozenset({"completed", "failed", "cancelled"})

Value = TypeVar("Value")

_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}
"""Made when they are first needed: making one takes longer than reading a value with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobProgress:
    """How far a job is."""

    queue_position: int | None
    """1 is the next; None once it is not queued."""
    segments_done: int
    segments_total: int
    """0 until the job is planned."""
    frames_done: int
    frames_total: int
    frames_per_second: float
    seconds_left: float | None
    has_preview: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """A finished file."""

    name: str
    media_type: str
    num_bytes: int
    sha256: str
    width: int
    """In pixels."""
    height: int
    num_frames: int
    was_cached: bool
    """Whether somebody had asked for exactly this before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobError:
    """Why a job failed."""

    kind: str
    detail: str
    remedy: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JobUsage:
    """What a job has used so far."""

    gpu_seconds: float
    cost: float
    """At the deployment's price of a GPU hour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One item that was submitted, as the service saw it when it answered."""

    id: str
    state: JobState
    version: int
    """Grows with every change."""
    name: str
    """Of the source's file."""
    model: str
    priority: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    settings: Mapping[str, Any]
    metadata: Mapping[str, Any]
    progress: JobProgress
    usage: JobUsage
    result: JobResult | None
    error: JobError | None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in _FINAL

    def require_completed(self) -> JobResult:
        """Return the result.

        Raises:
            SeedVR2Error: it failed, with the error that the same failure is on this machine.
            InputError: it was cancelled, or is not finished.
        """
        if self.error is not None:
            raise error_of_kind(self.error.kind, f"{self.name}: {in_sentences(self.error.detail, self.error.remedy)}")
        if self.result is None:
            raise InputError(f"job {self.id} is {self.state} and has no result; wait for it, or submit it again")
        return self.result

    def _repr_html_(self) -> str:
        progress = self.progress
        facts: list[tuple[str, object]] = [
            ("job", self.id),
            ("state", self.state),
            ("model", self.model),
            ("used", f"{self.usage.gpu_seconds:.1f} GPU seconds"),
        ]
        if self.result is not None:
            facts.append(("result", f"{self.result.width}x{self.result.height}, {self.result.num_bytes:,} bytes"))
        if self.error is not None:
            facts.append(("error", f"{self.error.detail} {self.error.remedy}"))
        share = progress.frames_done / progress.frames_total if progress.frames_total else float(self.is_final)
        label = f"{progress.frames_done} of {progress.frames_total} frames"
        return render_facts(self.name, facts, below=render_bar(share, label))


@dataclass(frozen=True, kw_only=True, slots=True)
class JobPage:
    """Some jobs, newest first."""

    jobs: tuple[Job, ...]
    next_cursor: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A file that a service holds, for jobs to name."""

    id: str
    name: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """What will happen to something found in the file."""

    outcome: Literal["kept", "converted", "left_out", "refused"]
    subject: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEstimate:
    """What a job would take and cost."""

    segments: int
    """At least so many; cuts between shots add to them."""
    frames: int
    """That go through the model: those of the source and the overlaps of segments."""
    width: int
    """Of the result, in pixels."""
    height: int
    seconds: float
    """Of restoring, once begun."""
    gpu_seconds: float
    cost: float
    queue_seconds: float
    """Until it would be begun, judging by what waits now."""
    notices: tuple[Notice, ...]
    refusals: tuple[str, ...]
    """Why it would be refused now; empty when it would be taken."""
    gang_size: int = 1
    """GPUs that restore a segment together."""
    gib_per_gpu: float | None = None
    """Predicted, of each of them at its fullest; None where the deployment has not said what they hold."""

    def _repr_html_(self) -> str:
        facts = [
            ("size", f"{self.width}x{self.height}"),
            ("frames", self.frames),
            ("segments", f"at least {self.segments}"),
            ("GPU seconds", f"{self.gpu_seconds:.1f}"),
            ("cost", f"{self.cost:.4f}"),
            ("waits", f"{self.queue_seconds:.0f} s"),
            ("refused because", "; ".join(self.refusals) or "it is not"),
        ]
        rows = [(each.outcome, each.subject, each.reason) for each in self.notices]
        return render_facts("Estimate", facts, below=render_grid(("outcome", "what", "why"), rows) if rows else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model that jobs may name."""

    name: str
    summary: str
    licence: str
    is_default: bool
    """Whether ``auto`` means it."""
    price_per_gpu_hour: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPage:
    """The models of a deployment, the default first."""

    models: tuple[Model, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DayOfUsage:
    """What one owner used on one day (UTC)."""

    owner: str
    day: date
    gpu_seconds: float
    megapixels: float
    output_seconds: float
    cost: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What was used, by day, the earliest first."""

    days: tuple[DayOfUsage, ...] = field(default_factory=tuple)
    gpu_seconds: float = 0.0
    cost: float = 0.0


def parse(kind: type[Value], body: bytes | str) -> Value:
    """Read a value from a JSON text.

    Raises:
        DeploymentError: it is something else; whatever answered speaks another API.
    """
    try:
        value: Value = _adapter(kind).validate_json(body)
        return value
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the body"
        raise DeploymentError(
            f"the service's answer is no {kind.__name__} of API v1 ({place}: {first['msg']}); "
            "check the address and the service's version"
        ) from None


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
