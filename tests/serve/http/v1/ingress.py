"""A whole service without Ray for tests of its HTTP: uvicorn and a runner on one loop in a thread, on loopback."""

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import APIRouter

from seedvr2_ray.serve.config import Limits, ModelPool, ServiceConfig
from seedvr2_ray.serve.db.database import open_database
from seedvr2_ray.serve.db.job_store import NewJob
from seedvr2_ray.serve.db.key_store import KeyStore
from seedvr2_ray.serve.http.application import create_api
from seedvr2_ray.serve.jobs import JobState, ResultInfo, Source
from seedvr2_ray.serve.scheduler.runner import JobRunner
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.api_keys import make_key
from seedvr2_ray.serve.service.verbs import Service
from seedvr2_ray.serve.workers.local import LocalWorkers
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from tests.serve.deployment import QUICK_RETRIES, WatchedRestorers
from tests.waiting import wait_for

QUICK = {"model": "lanczos", "resolution": "x2", "segment_seconds": 0.5, "segment_overlap": 4, "preset": "ultrafast"}
DATA = bytes(range(256)) * 5000
SECRETS = Secrets(signing_key=b"k" * 32, webhook_secret="whsec_" + "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0")


@dataclass
class Ingress:
    """A service that answers HTTP on this machine."""

    service: Service
    restorers: WatchedRestorers
    url: str
    keys: KeyStore
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, owner: str | None = None, *scopes: str) -> httpx.Client:
        """Return a client; with an owner, one that sends a new key of his."""
        headers = {}
        if owner is not None:
            key, token = make_key(owner, scopes or ("jobs:read", "jobs:write"), now=datetime.now(UTC))
            self.keys.add(key)
            headers["Authorization"] = f"Bearer {token}"
        client = httpx.Client(base_url=self.url, headers=headers, timeout=120)
        self.clients.append(client)
        return client


@contextmanager
def serving(
    folder: Path,
    *,
    data: str | None = None,
    runs_jobs: bool = False,
    limits: Limits | None = None,
    auth: str = "none",
    routers: Iterable[APIRouter] = (),
    **config: Any,
) -> Iterator[Ingress]:
    """Run a service for as long as the block does.

    Args:
        folder: of its database, and of whatever is not told to lie elsewhere.
        data: where it keeps files; by default in the folder.
        runs_jobs: whether a runner works on what is submitted.
        routers: of other dialects than v1.
    """
    restorers = WatchedRestorers()
    layout = StorageLayout(data=data or str(folder / "data"), scratch=str(folder / "scratch"), restorers=restorers)
    settled = ServiceConfig(
        data=layout.data,
        scratch=layout.scratch,
        auth=(auth,),
        models={"lanczos": ModelPool(price_per_gpu_hour=3.6), "nano": ModelPool()},
        default_model="lanczos",
        limits=limits or Limits(),
        **config,
    )
    database = open_database(f"sqlite:///{folder}/service.db")
    service = Service(settled, SECRETS, database)
    server = uvicorn.Server(
        uvicorn.Config(
            create_api(service, routers=routers), host="127.0.0.1", port=0, log_level="warning", ws="websockets-sansio"
        )
    )
    thread = threading.Thread(target=lambda: asyncio.run(_serve(server, service, layout if runs_jobs else None)))
    thread.start()
    ingress = Ingress(service, restorers, "", KeyStore(database))
    try:
        wait_for(lambda: server.started or not thread.is_alive(), "the server")
        ingress.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield ingress
    finally:
        for client in ingress.clients:
            client.close()
        server.should_exit = True
        thread.join(240)
        database.close()
        assert not thread.is_alive(), "the server does not end"


async def _serve(server: uvicorn.Server, service: Service, layout: StorageLayout | None) -> None:
    if layout is None:
        await server.serve()
        return
    workers = LocalWorkers(layout)
    runner = JobRunner(
        "runner", service.config, service.jobs, service.usage, service.results, workers, retries=QUICK_RETRIES
    )
    task = asyncio.create_task(runner.run())
    try:
        await server.serve()
    finally:
        task.cancel()
        await asyncio.wait([task])
        workers.close()


def submit(client: httpx.Client, clip: Path, *, name: str = "film.mp4", settings: Any = QUICK, **headers: str) -> Any:
    """Submit a file as a form and return the answer."""
    with clip.open("rb") as file:
        return client.post(
            "/v1/jobs", files={"file": (name, file)}, data={"settings": json.dumps(settings)}, headers=headers
        )


def finished(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """Wait for a job to end, and return it."""

    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        return job if job["finished_at"] else None

    found: dict[str, Any] = wait_for(look, "the job to end")
    return found


def upload(client: httpx.Client, data: bytes, *, name: str = "film.mp4", piece: int | None = None) -> str:
    """Send a file by tus, in pieces, and return the upload's id."""
    announced = client.post("/v1/uploads", headers=tus(len(data), name))
    assert announced.status_code == 201, announced.text
    location = announced.headers["location"]
    for start in range(0, len(data), piece or len(data)):
        sent = client.patch(
            location,
            content=data[start : start + (piece or len(data))],
            headers={"Tus-Resumable": "1.0.0", "Upload-Offset": str(start), "Content-Type": PIECE},
        )
        assert sent.status_code == 204, sent.text
    return str(location.rpartition("/")[2])


PIECE = "application/offset+octet-stream"


def tus(num_bytes: int, name: str) -> dict[str, str]:
    """Headers that announce a file."""
    encoded = base64.b64encode(name.encode()).decode()
    return {"Tus-Resumable": "1.0.0", "Upload-Length": str(num_bytes), "Upload-Metadata": f"filename {encoded}"}


def completed(
    ingress: Ingress, path: Path, name: str, media_type: str, *, owner: str = "local", data: bytes = DATA
) -> str:
    """Put a job and its result where a runner would have. There must be no runner: it would take the job itself."""
    path.write_bytes(data)
    jobs, results = ingress.service.jobs, ingress.service.results
    info = ResultInfo(
        address=f"address{abs(hash((name, media_type, owner)))}",
        name=name,
        media_type=media_type,
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        width=8,
        height=8,
        num_frames=3,
    )
    results.add("after", info.address, path)
    results.publish(info, path)
    source = Source(kind="upload", location="upload_x", name=name)
    made, _ = jobs.create(NewJob(owner=owner, source=source, settings={}))
    taken = [each for each in jobs.claim("me", lease_seconds=60, limit=100) if each.id == made.id]
    assert len(taken) == 1, "somebody else took the job"
    jobs.advance(made.id, taken[0].fence, JobState.COMPLETED, result=info)
    return made.id
