"""A service of API v1 in memory, whose connections break and whose answers fail when a test says so."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from seedvr2_ray.client.asynchronous import AsyncClient
from seedvr2_ray.client.blocking import Client
from seedvr2_ray.client.connection import Retries

RESULT = bytes(range(256)) * 40
QUICK = Retries(attempts=4, first_wait_seconds=0.001, longest_wait_seconds=0.01)
URL = "http://service.test"

Fault = Callable[[httpx.Request], httpx.Response | None]


def job(state: str = "queued", version: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a job as the service writes it."""
    progress = {
        "queue_position": None,
        "segments_done": 0,
        "segments_total": 2,
        "frames_done": 12 * version,
        "frames_total": 48,
        "frames_per_second": 3.0,
        "seconds_left": None,
        "has_preview": False,
    }
    result = {
        "name": "clip-restored.mp4",
        "media_type": "video/mp4",
        "num_bytes": len(RESULT),
        "sha256": hashlib.sha256(RESULT).hexdigest(),
        "width": 128,
        "height": 96,
        "num_frames": 48,
        "was_cached": False,
    }
    return {
        "id": "job-1",
        "state": state,
        "version": version,
        "name": "clip.mp4",
        "model": "nano",
        "priority": 0,
        "created_at": "2026-01-01T00:00:00Z",
        "started_at": None,
        "finished_at": None,
        "settings": {},
        "metadata": {},
        "progress": progress,
        "usage": {"gpu_seconds": 1.5, "cost": 0.0015},
        "result": result if state == "completed" else None,
        "error": None,
        "a_field_of_the_future": 1,
        **changes,
    }


def problem(status: int, kind: str, detail: str = "it is so.", **headers: str) -> httpx.Response:
    """Return a refusal."""
    body = {"type": f"/v1/problems/{kind}", "detail": detail, "remedy": "Do this.", "status": status}
    return httpx.Response(
        status, headers={"content-type": "application/problem+json", **headers}, content=json.dumps(body).encode()
    )


class Torn(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body whose connection breaks after some chunks."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield from self.chunks
        raise httpx.ReadError("the connection broke")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


@dataclass
class FakeService:
    """What the service holds, and what it will get wrong."""

    faults: list[Fault] = field(default_factory=list)
    """Asked in turn before a request is answered, each once; None passes the request on."""
    requests: list[httpx.Request] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    num_announced: int = 0
    name: str = ""
    jobs_by_key: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=lambda: [job(), job("restoring", 2), job("completed", 3)])

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        self.requests.append(request)
        if self.faults and (answer := self.faults.pop(0)(request)) is not None:
            return answer
        method, path = request.method, request.url.path
        if path.startswith("/v1/uploads"):
            return self._answer_upload(request)
        if (method, path) == ("POST", "/v1/jobs"):
            made = self.jobs_by_key.setdefault(request.headers["idempotency-key"], job())
            return httpx.Response(201, json=made)
        if path == "/v1/jobs/job-1/events":
            lines = [": ping", *(f"event: job\ndata: {json.dumps(each)}\n" for each in self.history)]
            return httpx.Response(200, content="\n".join(lines).encode() + b"\n")
        if path == "/v1/jobs/job-1/result":
            start = int(request.headers["range"].removeprefix("bytes=").rstrip("-"))
            return httpx.Response(206, content=RESULT[start:])
        if path == "/v1/jobs/job-1":
            return httpx.Response(200, json=self.history[-1])
        return problem(404, "no-route")

    def _answer_upload(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.num_announced = int(request.headers["upload-length"])
            self.name = base64.b64decode(request.headers["upload-metadata"].split()[1]).decode()
            return httpx.Response(201, headers={"location": "/v1/uploads/up-1", "upload-offset": "0"})
        if request.method == "PATCH":
            if int(request.headers["upload-offset"]) != len(self.received):
                return problem(409, "conflict")
            self.received += request.content
        headers = {"upload-offset": str(len(self.received)), "upload-length": str(self.num_announced)}
        return httpx.Response(204 if request.method == "PATCH" else 200, headers=headers)

    def client(self) -> Client:
        """Return a client of this service that does not wait long."""
        http = httpx.Client(base_url=URL, transport=httpx.MockTransport(self))
        return Client(URL, retries=QUICK, http=http)

    def async_client(self) -> AsyncClient:
        """Return the other one."""
        http = httpx.AsyncClient(base_url=URL, transport=httpx.MockTransport(self))
        return AsyncClient(URL, retries=QUICK, http=http)


def breaks(_: httpx.Request) -> httpx.Response:
    """A fault: the connection breaks before anything is answered."""
    raise httpx.ConnectError("refused")


def passes(_: httpx.Request) -> None:
    """No fault."""


def refuses(status: int, kind: str, **headers: str) -> Fault:
    """A fault: the service refuses."""
    return lambda _: problem(status, kind, **headers)
