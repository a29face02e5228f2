"""Jobs in the words of RunPod's API: the envelope that its SDK reads, and what a handler would have put into it."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from seedvr2_ray.serve.http.inline_media import MEDIA_HERE
from seedvr2_ray.serve.http.runpod.actions import processing_info
from seedvr2_ray.serve.jobs import Job, JobState

STATES: dict[JobState, str] = {
    JobState.QUEUED: "IN_QUEUE",
    JobState.PLANNING: "IN_PROGRESS",
    JobState.RESTORING: "IN_PROGRESS",
    JobState.ASSEMBLING: "IN_PROGRESS",
    JobState.COMPLETED: "COMPLETED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "CANCELLED",
}
OUT_OF_MEMORY = "Processing failed: CUDA out of memory"

_AT_ONCE = "now-"
_LONGEST_ERROR = 1000
"""Characters; what ends at once is carried in an id, and an id in a URL."""


def envelope(job: Job) -> dict[str, Any]:
    """Return what is the same in every answer about a job; times are milliseconds."""
    answer: dict[str, Any] = {"id": job.id, "status": STATES[job.state]}
    if job.started_at is not None:
        answer["delayTime"] = _milliseconds(job.created_at, job.started_at)
        answer["executionTime"] = _milliseconds(job.started_at, job.finished_at or datetime.now(UTC))
    return answer


def output_of(job: Job, *, download_url: str, most_bytes: int) -> dict[str, Any] | None:
    """Return what the handler of a job would have returned, with ``MEDIA_HERE`` where its media go.

    Args:
        download_url: of the result.
        most_bytes: of a result that is sent inside the answer.

    Returns:
        None while there is nothing to say.
    """
    if job.state is JobState.FAILED:
        return failure(*_why(job))
    if job.state is not JobState.COMPLETED or job.result is None:
        return None
    result, media = job.result, [MEDIA_HERE]
    output: dict[str, Any] = {"success": True}
    if result.num_bytes > most_bytes:
        media = []
        output = {
            "success": False,
            "error": f"the result has {result.num_bytes / 1e6:.1f} MB and answers hold {most_bytes / 1e6:g} MB at "
            f"most; download it from {download_url}",
        }
    return output | {
        "media": media,
        "videos": media,
        "media_type": "image" if result.media_type.startswith("image/") else "video",
        "model_type": job.metadata.get("model_type", job.settings["model"]),
        "model_variant": job.metadata.get("model_variant", "normal"),
        "model": job.settings["model"],
        "resolution": job.metadata.get("resolution", f"{result.width}x{result.height}"),
        "processing_info": processing_info(job),
        "download_url": download_url,
    }


def failure(error: str, detail: str | None = None) -> dict[str, Any]:
    """Return what a handler returns when it cannot do what it should."""
    output = {"error": error[:_LONGEST_ERROR]}
    return output if detail is None else output | {"detail": detail[:_LONGEST_ERROR]}


def stream_item(job: Job) -> dict[str, Any]:
    """Return how far a job has come, as one item of its stream."""
    progress = job.progress
    item: dict[str, Any] = {
        "state": str(job.state),
        "segments_done": progress.segments_done,
        "segments_total": progress.segments_total,
        "frames_done": progress.frames_done,
        "frames_total": progress.frames_total,
        "frames_per_second": progress.frames_per_second,
        "seconds_left": progress.seconds_left,
    }
    if job.state is JobState.FAILED:
        item |= failure(*_why(job))
    return {"output": item}


def stream_status(job: Job) -> str:
    """Return the state that ends a stream when nothing more will come.

    The SDK's ``stream`` does not count CANCELLED among the ends and would go on asking for ever.
    """
    return "FAILED" if job.state is JobState.CANCELLED else STATES[job.state]


def answered_at_once(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return the envelope of something that made no job.

    Clients of ``run`` keep the id and ask for its status. Nothing is kept here for that: the id carries the output.
    """
    error = output.get("error")
    carried = urlsafe_b64encode(json.dumps(output).encode()).decode().rstrip("=")
    answer: dict[str, Any] = {
        "id": _AT_ONCE + carried,
        "status": "COMPLETED" if error is None else "FAILED",
        "delayTime": 0,
        "executionTime": 0,
        "output": dict(output),
    }
    return answer if error is None else answer | {"error": error}


def carried_output(job_id: str) -> dict[str, Any] | None:
    """Return the output that an id of :func:`answered_at_once` carries; None for the id of a job."""
    if not job_id.startswith(_AT_ONCE):
        return None
    carried = job_id.removeprefix(_AT_ONCE)
    try:
        output = json.loads(urlsafe_b64decode(carried + "=" * (-len(carried) % 4)))
        # Whoever made the id up himself is shown no more than could be ours.
        is_ours = isinstance(output, dict) and all(isinstance(value, str | int) for value in output.values())
        json.dumps(output, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return output if is_ours else None


def with_output(answer: Mapping[str, Any], output: Mapping[str, Any] | None, *, on_top: bool) -> dict[str, Any]:
    """Put an output where the SDK reads it, and with ``on_top`` also where plain scripts read it."""
    if output is None:
        return dict(answer)
    whole = {**answer, "output": dict(output)}
    if "error" in output:
        whole["error"] = output["error"]
    # The envelope's own fields win: the action "health" has a status of its own.
    return {**output, **whole} if on_top else whole


def _why(job: Job) -> tuple[str, str | None]:
    if job.error is None:
        return "Processing failed", None
    if job.error.kind == "capacity":
        return OUT_OF_MEMORY, job.error.detail
    return f"Processing failed: {job.error.detail}", job.error.remedy


def _milliseconds(start: datetime, end: datetime) -> int:
    return max(0, round((end - start).total_seconds() * 1000))
