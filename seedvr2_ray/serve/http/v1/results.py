"""Results and previews: what comes out of jobs."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from seedvr2_ray.serve.http.callers import JobId, JobReader, TheService
from seedvr2_ray.serve.http.handover import hand_over
from seedvr2_ray.serve.http.problem_bodies import documented
from seedvr2_ray.serve.http.ranges import SAFE_TYPES, respond_with

router = APIRouter(prefix="/v1/jobs", tags=["results"])

_FILE: dict[str, Any] = {
    "content": {media_type: {} for media_type in sorted({*SAFE_TYPES, "application/octet-stream"})}
}
_RESULT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", **_FILE},
    206: {"description": "The part of the file that Range asked for.", **_FILE},
    304: {"description": "You have it already."},
    307: {"description": "The object store sends the file; the link holds for a quarter of an hour."},
    **documented(401, 403, 404, 409, 410, 416, 422, 429),
}
_COMPANION_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"application/octet-stream": {}}},
    206: {"description": "The part of the file that Range asked for.", "content": {"application/octet-stream": {}}},
    304: {"description": "You have it already."},
    **documented(401, 403, 404, 409, 410, 416, 422, 429),
}
_PREVIEW_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {"image/jpeg": {}, "image/png": {}}},
    206: {
        "description": "The part of the picture that Range asked for.",
        "content": {"image/jpeg": {}, "image/png": {}},
    },
    304: {"description": "You have it already."},
    **documented(401, 403, 404, 410, 416, 422, 429),
}
Download = Annotated[bool, Query(description="Whether a browser should save it rather than show it.")]


@router.head("/{job_id}/result", response_class=Response, responses=_RESULT_ANSWERS)
@router.get("/{job_id}/result", response_class=Response, responses=_RESULT_ANSWERS)
async def read_result(
    request: Request, service: TheService, caller: JobReader, job_id: JobId, download: Download = True
) -> Response:
    """Send a completed job's file, or the range of it that was asked for, or say where the store sends it."""
    result, file = await service.outcomes.open_result(caller, job_id)
    return hand_over(
        request, file, service.config, name=result.name, media_type=result.media_type, is_download=download
    )


@router.head("/{job_id}/report", response_class=Response, responses=_COMPANION_ANSWERS)
@router.get("/{job_id}/report", response_class=Response, responses=_COMPANION_ANSWERS)
async def read_report(request: Request, service: TheService, caller: JobReader, job_id: JobId) -> Response:
    """Send the report page of a completed job, to be kept and opened from there."""
    file = await service.outcomes.open_companion(caller, job_id, "report")
    return respond_with(request, file, name="report.html", media_type=file.media_type, is_download=True)


@router.head("/{job_id}/provenance", response_class=Response, responses=_COMPANION_ANSWERS)
@router.get("/{job_id}/provenance", response_class=Response, responses=_COMPANION_ANSWERS)
async def read_provenance(request: Request, service: TheService, caller: JobReader, job_id: JobId) -> Response:
    """Send what a completed job's result was made of, and how, as JSON."""
    file = await service.outcomes.open_companion(caller, job_id, "sidecar")
    return respond_with(request, file, name="provenance.json", media_type=file.media_type, is_download=True)


@router.head("/{job_id}/preview/{which}", response_class=Response, responses=_PREVIEW_ANSWERS)
@router.get("/{job_id}/preview/{which}", response_class=Response, responses=_PREVIEW_ANSWERS)
async def read_preview(
    request: Request, service: TheService, caller: JobReader, job_id: JobId, which: Literal["before", "after"]
) -> Response:
    """Send a still of the source or of the result; there as soon as the first segment is."""
    file = await service.outcomes.open_preview(caller, job_id, which)
    suffix = "png" if file.media_type == "image/png" else "jpg"
    return respond_with(request, file, name=f"{which}.{suffix}", media_type=file.media_type, is_download=False)
