"""Events of a job as they happen: server-sent events, and a WebSocket that says the same."""

import contextlib
from collections.abc import AsyncGenerator

import anyio
from fastapi import APIRouter, WebSocket
from fastapi.responses import Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.websockets import WebSocketDisconnect

from seedvr2_ray.errors import SeedVR2Error
from seedvr2_ray.serve.http.callers import JobId, JobReader, TheService, may_read_job, service_of, usable_id
from seedvr2_ray.serve.http.problem_bodies import documented, problem_of
from seedvr2_ray.serve.http.v1.schemas import view_of
from seedvr2_ray.serve.service.verbs import Service

HEARTBEAT_SECONDS = 15
SEND_SECONDS = 30
"""A receiver that takes nothing for so long has gone."""
_CLOSE_CODES = 4000
"""A socket that is refused is closed with 4000 + the HTTP status: pages cannot see why a handshake failed."""

router = APIRouter(prefix="/v1/jobs", tags=["events"])


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses={
        200: {
            "description": "Events named `job` with the job as data, the present one first; the last is final.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **documented(401, 403, 404, 410, 422, 429),
    },
)
async def stream_events(service: TheService, caller: JobReader, job_id: JobId) -> Response:
    """Send the job now and whenever it changes. Whoever comes back after a break gets the present state first."""
    await service.get(caller, job_id)
    service.watch.require_room()
    return EventSourceResponse(_events(service, job_id), ping=HEARTBEAT_SECONDS, send_timeout=SEND_SECONDS, sep="\n")


@router.websocket("/{job_id}/socket")
async def open_socket(socket: WebSocket, job_id: str) -> None:
    """Send what the events send, as JSON texts, and close with 1000 when the job is final."""
    await socket.accept()
    service = service_of(socket)
    try:
        caller = await may_read_job(socket, usable_id(job_id))
        await service.get(caller, job_id)
        service.watch.require_room()
    except SeedVR2Error as error:
        problem, _ = problem_of(error, "socket")
        await socket.close(_CLOSE_CODES + problem.status, problem.detail.encode()[:120].decode(errors="ignore"))
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_until_closed, socket, tasks.cancel_scope)
        await _send_jobs(socket, service, job_id)
        tasks.cancel_scope.cancel()


async def _events(service: Service, job_id: str) -> AsyncGenerator[ServerSentEvent, None]:
    async with contextlib.aclosing(service.watch.snapshots(job_id)) as snapshots:
        async for snapshot in snapshots:
            data = view_of(snapshot, service.links).model_dump_json()
            yield ServerSentEvent(data, event="job", id=str(snapshot.job.version))


async def _send_jobs(socket: WebSocket, service: Service, job_id: str) -> None:
    async with contextlib.aclosing(service.watch.snapshots(job_id)) as snapshots:
        async for snapshot in snapshots:
            with anyio.fail_after(SEND_SECONDS):
                await socket.send_text(view_of(snapshot, service.links).model_dump_json())
    await socket.close(1000)


async def _until_closed(socket: WebSocket, scope: anyio.CancelScope) -> None:
    """Listen, so that a receiver that goes away is noticed; what it says means nothing."""
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.receive_text()
    scope.cancel()
