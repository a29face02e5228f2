"""Jobs: submit, list, look, cancel, delete, estimate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from seedvr2_ray.errors import InputError
from seedvr2_ray.serve.db.job_store import MAX_PAGE
from seedvr2_ray.serve.db.upload_store import Upload
from seedvr2_ray.serve.http.bodies import (
    FormField,
    FormFile,
    content_type_of,
    file_bytes,
    parse_json_field,
    read_form,
    read_json,
    require_length,
)
from seedvr2_ray.serve.http.callers import JobId, JobReader, TheCaller, TheService
from seedvr2_ray.serve.http.problem_bodies import ProtocolRefusal, documented
from seedvr2_ray.serve.http.v1.schemas import EstimateView, JobForm, JobList, JobRequest, JobView, view_of
from seedvr2_ray.serve.jobs import Job, JobState
from seedvr2_ray.serve.security.auth import Caller
from seedvr2_ray.serve.service.submission import Submission
from seedvr2_ray.serve.service.verbs import Service
from seedvr2_ray.storage.address import digest_of

_FORM_OVERHEAD = 1 << 20
"""Room for the boundaries and the fields beside the file."""
_JSON_FIELDS = frozenset({"settings", "priority", "metadata", "gang_size"})

router = APIRouter(prefix="/v1", tags=["jobs"])

_JSON_BODY = {"application/json": {"schema": {"$ref": "#/components/schemas/JobRequest"}}}
_FORM_BODY = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file"],
            "additionalProperties": False,
            "properties": {
                "file": {"type": "string", "format": "binary"},
                "settings": {"type": "object"},
                "priority": {"type": "integer", "minimum": -10, "maximum": 10},
                "webhook_url": {"type": "string"},
                "metadata": {"type": "object"},
                "gang_size": {"type": "integer", "minimum": 1, "maximum": 64},
            },
        }
    }
}

IdempotencyKey = Annotated[
    str | None, Header(description="The same request under the same key makes one job, however often it is sent.")
]


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobView,
    responses={
        200: {"model": JobView, "description": "The key made this job before."},
        **documented(400, 401, 403, 404, 408, 409, 410, 413, 415, 422, 429),
    },
    openapi_extra={"requestBody": {"required": True, "content": {**_JSON_BODY, **_FORM_BODY}}},
)
async def submit_job(
    request: Request, response: Response, service: TheService, caller: TheCaller, idempotency_key: IdempotencyKey = None
) -> JobView:
    """Make a job of a file: sent along as a form, uploaded before, or named by a URL."""
    kind = content_type_of(request)
    if kind == "multipart/form-data":
        job, is_new = await _submit_form(request, service, caller, idempotency_key)
    elif kind == "application/json":
        body = await read_json(request, JobRequest)
        job, is_new = await service.submit(caller, body.to_submission(idempotency_key=idempotency_key))
    else:
        raise ProtocolRefusal("a job is sent as multipart/form-data with a file, or as application/json", 415)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return view_of(await service.snapshot(job), service.links)


@router.post(
    "/estimate",
    response_model=EstimateView,
    responses=documented(400, 401, 403, 404, 408, 409, 410, 413, 415, 422, 429),
    openapi_extra={"requestBody": {"required": True, "content": _JSON_BODY}},
)
async def estimate_job(request: Request, service: TheService, caller: TheCaller) -> EstimateView:
    """Say what a job would take and cost, and why it would be refused, before anything is spent."""
    body = await read_json(request, JobRequest)
    return EstimateView.of(await service.estimate(caller, body.to_submission()))


@router.get("/jobs", response_model=JobList, responses=documented(401, 403, 422, 429))
async def list_jobs(
    service: TheService,
    caller: TheCaller,
    state: Annotated[list[JobState] | None, Query(description="Only jobs in these states.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=400, description="`next_cursor` of the page before.")] = None,
) -> JobList:
    """List your jobs, newest first."""
    snapshots, next_cursor = await service.list(
        caller, states=None if state is None else frozenset(state), limit=limit, cursor=cursor
    )
    return JobList(jobs=[view_of(each, service.links) for each in snapshots], next_cursor=next_cursor)


@router.get("/jobs/{job_id}", response_model=JobView, responses=documented(401, 403, 404, 410, 422, 429))
async def read_job(service: TheService, caller: JobReader, job_id: JobId) -> JobView:
    """Show a job."""
    return view_of(await service.look(caller, job_id), service.links)


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    response_model=JobView,
    responses=documented(401, 403, 404, 409, 410, 422, 429),
)
async def cancel_job(service: TheService, caller: TheCaller, job_id: JobId) -> JobView:
    """Ask a job to stop; it does within seconds, in the middle of a segment too."""
    job = await service.cancel(caller, job_id)
    return view_of(await service.snapshot(job), service.links)


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    response_class=Response,
    responses={
        202: {"model": JobView, "description": "It is being stopped, and deleted then."},
        **documented(401, 403, 404, 410, 422, 429),
    },
)
async def delete_job(service: TheService, caller: TheCaller, job_id: JobId) -> Response:
    """Delete a job with everything that only it uses; one that is not finished is cancelled first."""
    job = await service.delete(caller, job_id)
    if job.state.is_final:
        return Response(status_code=204)
    view = view_of(await service.snapshot(job), service.links)
    return Response(view.model_dump_json(), 202, media_type="application/json")


@dataclass(slots=True)
class _Form:
    """What a form has brought so far."""

    upload: Upload | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def add(self, event: FormField) -> None:
        if event.name not in JobForm.model_fields:
            known = ", ".join(["file", *JobForm.model_fields])
            raise InputError(f"the form has a field {event.name[:80]!r}; known are {known}")
        if event.name in self.fields:
            raise InputError(f"the form has the field {event.name} twice; send it once")
        is_json = event.name in _JSON_FIELDS
        self.fields[event.name] = parse_json_field(event.name, event.text) if is_json else event.text


async def _submit_form(request: Request, service: Service, caller: Caller, key: str | None) -> tuple[Job, bool]:
    require_length(request, service.limits.max_upload_bytes + _FORM_OVERHEAD)
    if key is None:  # A repeated request has its job already, however full it is now.
        await service.require_room(caller)
    form = _Form()
    is_used = False
    try:
        await _receive(request, service, caller, form)
        if form.upload is None:
            raise InputError("the form has no file; send it as the field named file")
        fields = JobForm.model_validate(form.fields)
        submission = _submission_of(form.upload, fields, form.fields, key)
        job, is_used = await service.submit(caller, submission)
        return job, is_used
    finally:
        if form.upload is not None and not is_used:
            await service.uploads.discard(form.upload)


async def _receive(request: Request, service: Service, caller: Caller, form: _Form) -> None:
    events = read_form(request)
    try:
        async for event in events:
            if isinstance(event, FormField):
                form.add(event)
            elif isinstance(event, FormFile):
                if event.name != "file" or form.upload is not None:
                    raise InputError("the form must have exactly one file, in the field named file")
                form.upload = await service.uploads.receive(caller, event.file_name, file_bytes(events))
    except ConnectionError:
        raise ProtocolRefusal("the connection broke off before the request was complete") from None


def _submission_of(upload: Upload, form: JobForm, fields: Mapping[str, Any], key: str | None) -> Submission:
    return Submission(
        upload_id=upload.id,
        settings=form.settings,
        priority=form.priority,
        webhook_url=form.webhook_url,
        metadata=form.metadata,
        gang_size=form.gang_size,
        idempotency_key=key,
        # Every try uploads anew; its bytes tell whether it is the same request.
        request_digest=digest_of([upload.name, upload.sha256, dict(fields)]),
    )
