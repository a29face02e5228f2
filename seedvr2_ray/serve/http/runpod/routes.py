"""The routes below ``/v2/{endpoint_id}``. The endpoint's id may be anything; jobs remember it."""

from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response, StreamingResponse

from seedvr2_ray.errors import InputError, SeedVR2Error
from seedvr2_ray.serve.http.absolute_urls import download_address
from seedvr2_ray.serve.http.callers import SIGNED_IN, TheCaller, TheService, usable_id
from seedvr2_ray.serve.http.inline_media import Base64Error, JsonBody, MalformedJson, json_with_media
from seedvr2_ray.serve.http.problem_bodies import ProblemResponse, documented, problem_of, request_id_of
from seedvr2_ray.serve.http.runpod.actions import (
    API,
    ActionError,
    ModelMissing,
    action_of,
    choose_model,
    parse_restore,
    runpod_name,
    wrapping_of,
)
from seedvr2_ray.serve.http.runpod.answers import (
    answered_at_once,
    carried_output,
    envelope,
    failure,
    output_of,
    stream_item,
    stream_status,
    with_output,
)
from seedvr2_ray.serve.http.v1.inline_files import read_inline, submit_file
from seedvr2_ray.serve.jobs import Job, JobState
from seedvr2_ray.serve.problems import ConflictRefusal, GoneRefusal, MissingRefusal, RateRefusal
from seedvr2_ray.serve.security.auth import Caller
from seedvr2_ray.serve.security.wording import explained
from seedvr2_ray.serve.service.submission import Submission
from seedvr2_ray.serve.service.verbs import Service

_MOST_STREAMS = 10_000


class _Route(APIRoute):
    """Answers every refusal so that clients of this API find it, under ``error``, and everybody else too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what serves a request."""
        serve = super().get_route_handler()

        async def serve_or_explain(request: Request) -> Response:
            try:
                return await serve(request)
            except (SeedVR2Error, RequestValidationError) as error:
                problem, headers = problem_of(error, request_id_of(request))
                content = {"error": problem.detail, **problem.model_dump()}
                return ProblemResponse(content, problem.status, {**headers, "Cache-Control": "no-store"})

        return serve_or_explain


router = APIRouter(prefix="/v2/{endpoint_id}", tags=["RunPod"], route_class=_Route, dependencies=SIGNED_IN)

EndpointId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,100}$", description="Anything; jobs remember it.")]
RequestId = Annotated[str, Path(max_length=8000, description="As `run` or `runsync` answered it.")]
Wait = Annotated[
    int | None, Query(ge=1, le=10**9, description="Milliseconds to wait; the deployment has a limit of its own.")
]

_REFUSALS = documented(400, 401, 403, 404, 408, 409, 410, 413, 422, 429)
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["input"], "properties": {"input": {"type": "object"}}}
            }
        },
    }
}


@router.post("/run", openapi_extra=_BODY, responses=_REFUSALS)
async def run(request: Request, service: TheService, caller: TheCaller, endpoint_id: EndpointId) -> Response:
    """Do what ``input`` asks for; answers at once, and ``status`` has the rest."""
    begun = await _begin(request, service, caller, endpoint_id)
    if isinstance(begun, dict):
        answer = answered_at_once(begun)
        return JSONResponse({"id": answer["id"], "status": answer["status"]})
    return JSONResponse({"id": begun.id, "status": "IN_QUEUE"})


@router.post("/runsync", openapi_extra=_BODY, responses=_REFUSALS)
async def run_and_wait(
    request: Request, service: TheService, caller: TheCaller, endpoint_id: EndpointId, wait: Wait = None
) -> Response:
    """Do what ``input`` asks for, and wait for it; what takes longer is answered IN_PROGRESS and goes on."""
    caller.require("jobs:read")
    begun = await _begin(request, service, caller, endpoint_id)
    if isinstance(begun, dict):
        return JSONResponse(with_output(answered_at_once(begun), begun, on_top=True))
    seconds = service.limits.runsync_seconds
    if wait is not None:
        seconds = min(seconds, wait / 1000)
    # Where too many wait already: the job is accepted all the same, and polling finds its end.
    with suppress(RateRefusal):
        begun = await service.wait(caller, begun.id, seconds)
    return await _about(request, service, caller, begun, on_top=True)


@router.get("/status/{request_id}", responses=_REFUSALS)
async def read_status(
    request: Request, service: TheService, caller: TheCaller, endpoint_id: EndpointId, request_id: RequestId
) -> Response:
    """Show a job, and what came of it."""
    output = carried_output(request_id)
    if output is not None:
        return JSONResponse(answered_at_once(output))
    job = await service.get(caller, usable_id(request_id))
    return await _about(request, service, caller, job, on_top=False)


@router.get("/stream/{request_id}", responses=_REFUSALS)
async def read_stream(
    request: Request, service: TheService, caller: TheCaller, endpoint_id: EndpointId, request_id: RequestId
) -> Response:
    """Show how far a job has come, each item once; an end without items is the end."""
    output = carried_output(request_id)
    if output is not None:
        return JSONResponse({"id": request_id, "status": answered_at_once(output)["status"], "stream": []})
    job = await service.get(caller, usable_id(request_id))
    return JSONResponse({"id": job.id, "status": stream_status(job), "stream": _told_by(request).events(job)})


@router.post("/cancel/{request_id}", responses=_REFUSALS)
async def cancel(service: TheService, caller: TheCaller, endpoint_id: EndpointId, request_id: RequestId) -> Response:
    """Stop a job; one that has ended stays as it is."""
    output = carried_output(request_id)
    if output is not None:
        return JSONResponse({"id": request_id, "status": answered_at_once(output)["status"]})
    job_id = usable_id(request_id)
    try:
        await service.cancel(caller, job_id)
    except ConflictRefusal:
        return JSONResponse(envelope(await service.get(caller, job_id)))
    # A job that is being restored stops within seconds, and is shown as it is until then.
    return JSONResponse({"id": job_id, "status": "CANCELLED"})


@router.post("/purge-queue", responses=_REFUSALS)
async def purge_queue(service: TheService, caller: TheCaller, endpoint_id: EndpointId) -> Response:
    """Cancel the caller's jobs of this endpoint that wait; those that are restored go on."""
    waiting, cursor = await _waiting(service, caller, endpoint_id, None)
    while cursor is not None:
        more, cursor = await _waiting(service, caller, endpoint_id, cursor)
        waiting += more
    num_removed = 0
    for job_id in waiting:
        try:
            await service.cancel(caller, job_id, only_queued=True)
        except (ConflictRefusal, GoneRefusal, MissingRefusal):
            continue  # It waits no more since it was listed.
        num_removed += 1
    return JSONResponse({"removed": num_removed, "status": "completed"})


@router.get("/health", responses=_REFUSALS)
async def read_health(service: TheService, caller: TheCaller, endpoint_id: EndpointId) -> Response:
    """Count the caller's jobs, and the workers that they keep busy."""
    caller.require("jobs:read")
    num = await anyio.to_thread.run_sync(service.jobs.count, caller.sees)
    num_running = sum(num.get(state, 0) for state in JobState if state.is_active)
    most = sum(pool.max_replicas for pool in service.config.pools.values())
    least = sum(pool.min_replicas for pool in service.config.pools.values())
    busy = min(num_running, most)
    return JSONResponse(
        {
            "jobs": {
                "completed": num.get(JobState.COMPLETED, 0),
                "failed": num.get(JobState.FAILED, 0),
                "inProgress": num_running,
                "inQueue": num.get(JobState.QUEUED, 0),
                "retried": 0,  # There is no ``retry`` here.
            },
            "workers": {"idle": max(0, least - busy), "running": busy},
        }
    )


async def _begin(request: Request, service: Service, caller: Caller, endpoint_id: str) -> Job | dict[str, Any]:
    """Do what a body asks for; what could not be begun, or was done at once, is its output."""
    try:
        with await read_inline(request, service, caller) as body:
            return await _act(service, caller, body, endpoint_id)
    except ActionError as error:
        return failure(explained(error))
    except Base64Error as error:
        return failure(f"Invalid base64 video data: {explained(error)}")
    except MalformedJson:
        raise
    except InputError as error:
        return failure(f"Processing failed: {explained(error)}")


async def _act(service: Service, caller: Caller, body: JsonBody, endpoint_id: str) -> Job | dict[str, Any]:
    action, given = action_of(body.document)
    if action == "health":
        caller.require("jobs:read")
        return _health(service)
    caller.require("jobs:write")
    if action == "initialize":
        return _initialize(service, given)
    try:
        restore = parse_restore(given, service.config)
    except ModelMissing as error:
        return failure("Model not initialized", explained(error))
    path = body.media(restore.media)
    name, wrapping = wrapping_of(path)
    settings = {**restore.settings, **wrapping}
    submission = Submission(
        settings=settings, metadata=restore.metadata(endpoint_id), gang_size=restore.choice.gang_size
    )
    return await submit_file(service, caller, path, name, submission)


def _health(service: Service) -> dict[str, Any]:
    """Answer the action: about the default model, for the others come and go."""
    pool = service.config.models[service.config.default_model]
    return {
        "status": "healthy",
        "model_initialized": True,
        "model_type": runpod_name(service.config.default_model)[0],
        "cuda_available": pool.num_gpus > 0,
        "gpu_memory": pool.gpu_memory_bytes,
    }


def _initialize(service: Service, given: Any) -> dict[str, Any]:
    """Answer whether a model can be had; it is loaded when a job needs it."""
    try:
        choice = choose_model(given, service.config)
    except ModelMissing as error:
        return failure(f"Model initialization failed: {error}")
    return {
        "message": f"Model {choice.model_type} ({choice.model_variant}) initialized successfully",
        "model_type": choice.model_type,
        "model_variant": choice.model_variant,
        "sp_size": choice.sp_size,
        "ready": True,
    }


async def _about(request: Request, service: Service, caller: Caller, job: Job, *, on_top: bool) -> Response:
    """Answer with a job and its output, the media in it read from the store while they are sent."""
    output = output_of(
        job,
        download_url=download_address(request, service, job),
        most_bytes=service.limits.max_inline_result_bytes,
    )
    document = with_output(envelope(job), output, on_top=on_top)
    if not (output or {}).get("media"):
        return JSONResponse(document)
    _, file = await service.outcomes.open_result(caller, job.id)
    length, pieces = json_with_media(document, file.num_bytes, file.blocks)
    return StreamingResponse(pieces, media_type="application/json", headers={"Content-Length": str(length)})


async def _waiting(
    service: Service, caller: Caller, endpoint_id: str, cursor: str | None
) -> tuple[list[str], str | None]:
    """Return the ids of an endpoint's jobs on a page of those that wait, and the cursor of the next page."""
    snapshots, after = await service.list(caller, states={JobState.QUEUED}, limit=200, cursor=cursor)
    jobs = (snapshot.job for snapshot in snapshots)
    wanted = {"api": API, "endpoint": endpoint_id}
    return [job.id for job in jobs if wanted.items() <= job.metadata.items()], after


class _Told:
    """What this process has streamed of each job last: as with RunPod, every item is given once.

    Another ingress replica may give an item again; the job itself says when the stream ends.
    """

    def __init__(self) -> None:
        self._items: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def events(self, job: Job) -> list[dict[str, Any]]:
        """Return the item that says how far a job is, if it says something else than the last one."""
        item = stream_item(job)
        has_changed = self._items.pop(job.id, None) != item
        self._items[job.id] = item
        if len(self._items) > _MOST_STREAMS:
            self._items.popitem(last=False)
        return [item] if has_changed else []


def _told_by(request: Request) -> _Told:
    state = request.app.state
    if not hasattr(state, "runpod_told"):
        state.runpod_told = _Told()
    told: _Told = state.runpod_told
    return told
