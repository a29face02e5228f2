"""The ``/upscale`` API: what its requests mean to the service, how jobs look in its words, and its two routes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from seedvr2_ray.errors import InputError
from seedvr2_ray.serve.config import ModelPool, ServiceConfig
from seedvr2_ray.serve.http.absolute_urls import download_address
from seedvr2_ray.serve.http.callers import SIGNED_IN, JobId, TheCaller, TheService
from seedvr2_ray.serve.http.inline_media import Base64Error
from seedvr2_ray.serve.http.problem_bodies import documented
from seedvr2_ray.serve.http.v1.inline_files import read_inline, submit_file
from seedvr2_ray.serve.jobs import Job, JobState
from seedvr2_ray.serve.service.job_watch import Snapshot
from seedvr2_ray.serve.service.submission import Submission

API = "upscale"
"""What ``metadata`` of a job says about who made it."""
RESOLUTIONS = {"720p": "720p", "1080p": "1080p", "2k": "1440p", "4k": "2160p"}
"""What callers write, as this service's settings say it: the shorter side, so that portrait video is treated alike."""
LARGE = frozenset({"2k", "4k"})
STATES: dict[JobState, str] = {
    JobState.QUEUED: "pending",
    JobState.PLANNING: "processing",
    JobState.RESTORING: "processing",
    JobState.ASSEMBLING: "processing",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}

_FIELDS = ("video_url", "video_base64", "resolution", "batch_size")
_INLINE_NAME = "video.mp4"
_OVERLAP = 2
_LONGEST_NOTE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class UpscaleRequest:
    """A body of ``POST /upscale`` that has been understood."""

    video_url: str | None
    video_base64: str | None
    """As it stands in the document: base64, or what stands for it."""
    settings: Mapping[str, Any]
    gpu_type: str
    note: str | None
    """What of the request is not followed, and why."""

    def metadata(self) -> dict[str, Any]:
        """Return what a job keeps of the request."""
        kept: dict[str, Any] = {"api": API, "gpu_type": self.gpu_type}
        return kept if self.note is None else kept | {"note": self.note}


router = APIRouter(tags=["upscale"], dependencies=SIGNED_IN)

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "video_url": {"type": "string"},
                        "video_base64": {"type": "string"},
                        "resolution": {"enum": list(RESOLUTIONS)},
                        "batch_size": {"type": "integer", "minimum": 1},
                    },
                }
            }
        },
    }
}


@router.post("/upscale", responses=documented(400, 401, 403, 408, 413, 422, 429), openapi_extra=_BODY)
async def upscale(request: Request, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Make a job of a video."""
    try:
        with await read_inline(request, service, caller) as body:
            asked = parse_upscale(body.document, service.config)
            submission = Submission(url=asked.video_url, settings=asked.settings, metadata=asked.metadata())
            if asked.video_base64 is None:
                job, _ = await service.submit(caller, submission)
            else:
                path = body.media(asked.video_base64)
                job = await submit_file(service, caller, path, _INLINE_NAME, submission)
    except Base64Error as error:
        raise InputError(f"video_base64 is not base64: {error}") from error
    answer = {"job_id": job.id, "gpu_type": asked.gpu_type, "status": "pending"}
    return answer if asked.note is None else answer | {"note": asked.note}


@router.get("/status/{job_id}", responses=documented(401, 403, 404, 410, 422, 429))
async def read_status(request: Request, service: TheService, caller: TheCaller, job_id: JobId) -> dict[str, Any]:
    """Show how far a job is, and where its result can be fetched."""
    snapshot = await service.look(caller, job_id)
    return status_of(snapshot, download_url=download_address(request, service, snapshot.job))


def parse_upscale(document: Mapping[str, Any], config: ServiceConfig) -> UpscaleRequest:
    """Read a request.

    Raises:
        InputError: it names no video, or a field cannot be used.
    """
    notes = [f"the field {name!r} is unknown and was not followed" for name in sorted(set(document) - set(_FIELDS))]
    url, inline = (_text(document, field) for field in _FIELDS[:2])
    if (url is None) == (inline is None):
        raise InputError("the body must have exactly one of video_url and video_base64")
    resolution = str(document.get("resolution", "1080p")).lower()
    if resolution not in RESOLUTIONS:
        raise InputError(f"resolution must be one of {', '.join(RESOLUTIONS)}; got {document['resolution']!r:.80}")
    model, gpu_type = _pool(resolution, config)
    chunks, note = chunk_settings(document.get("batch_size"), largest=config.upscale.largest_batch)
    notes += [note] if note else []
    return UpscaleRequest(
        video_url=url,
        video_base64=inline,
        settings={"model": model, "resolution": RESOLUTIONS[resolution], **chunks},
        gpu_type=gpu_type,
        note="; ".join(notes)[:_LONGEST_NOTE] or None,
    )


def chunk_settings(batch_size: object, *, largest: int) -> tuple[dict[str, int], str | None]:
    """Translate ``batch_size``, the frames that go through the transformer at once, into this service's settings.

    A size that is 4n + 1 and no longer than the deployment allows is followed. Callers choose it for the memory of the
    devices they know, so that any other is not followed, with a note, rather than refused.
    """
    if batch_size is None:
        return {}, None
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number above 0, got {batch_size!r:.80}")
    if batch_size % 4 != 1:
        return {}, f"batch_size {batch_size} is not 4n + 1 (1, 5, 9, ...) and was not followed"
    if batch_size > largest:
        return {}, f"batch_size {batch_size} is above {largest}, the longest of this deployment, and was not followed"
    return {"chunk_frames": batch_size, "chunk_overlap": min(_OVERLAP, (batch_size - 1) // 4)}, None


def status_of(snapshot: Snapshot, *, download_url: str | None) -> dict[str, Any]:
    """Return a job as ``GET /status/{job_id}`` shows it.

    Args:
        snapshot: of the job.
        download_url: absolute and signed, once there is a result: clients fetch it without a key.
    """
    job = snapshot.job
    result = job.result if job.state is JobState.COMPLETED else None
    ended = job.finished_at or datetime.now(UTC)
    return {
        "status": STATES[job.state],
        "progress": _progress(snapshot),
        "elapsed_seconds": round(max(0.0, (ended - job.created_at).total_seconds()), 1),
        "download_url": None if result is None else download_url,
        "filename": None if result is None else result.name,
        "input_size_mb": _megabytes(job.source.num_bytes),
        "output_size_mb": None if result is None else _megabytes(result.num_bytes),
        "error": _error(job),
    }


def _pool(resolution: str, config: ServiceConfig) -> tuple[str, str]:
    """Return the model for a resolution, and what callers are told about its devices."""
    rules = config.upscale
    standard = rules.standard_model or config.default_model
    if resolution in LARGE:
        model, gpu_type = rules.large_model or standard, rules.large_gpu_type
    else:
        model, gpu_type = standard, rules.standard_gpu_type
    return model, gpu_type or _devices(config.models[model])


def _devices(pool: ModelPool) -> str:
    if not pool.num_gpus:
        return "CPU"
    return "GPU" if pool.gang_size == 1 else f"{pool.gang_size} GPUs"


def _progress(snapshot: Snapshot) -> str:
    job, progress = snapshot.job, snapshot.job.progress
    if job.state is JobState.QUEUED:
        place = snapshot.queue_position
        return "waiting" if place is None else f"waiting, number {place} in the queue"
    if job.state is JobState.PLANNING:
        return "looking at the video"
    if job.state is JobState.ASSEMBLING:
        return "joining the restored segments"
    if job.state is not JobState.RESTORING:
        return str(job.state)
    text = f"restored {progress.frames_done} of {progress.frames_total} frames"
    if progress.frames_total:
        text += f" ({100 * progress.frames_done // progress.frames_total} %)"
    if progress.frames_per_second:
        text += f", {progress.frames_per_second:.1f} frames/s"
    if progress.seconds_left is not None:
        text += f", about {progress.seconds_left:.0f} s left"
    return text


def _error(job: Job) -> str | None:
    if job.state is JobState.CANCELLED:
        return "the job was cancelled"
    return None if job.error is None else job.error.detail


def _megabytes(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else round(num_bytes / 2**20, 2)


def _text(document: Mapping[str, Any], field: str) -> str | None:
    value = document.get(field)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{field} must be a string, got {type(value).__name__}")
    return value or None
