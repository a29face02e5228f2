"""A deployment behind a real HTTP server on loopback, its runner beside it, all on one thread of this process."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from seedvr2_ray.serve.http import upscale
from seedvr2_ray.serve.http.application import create_api
from seedvr2_ray.serve.http.page import page_router
from seedvr2_ray.serve.http.runpod import routes as runpod
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.service.verbs import Service
from tests.serve.deployment import Deployment

ENDPOINT = "any-endpoint"


@dataclass
class HttpService:
    """Where it listens, and what is behind it."""

    url: str
    deployment: Deployment

    @property
    def endpoint(self) -> str:
        """The base of the RunPod API's routes."""
        return f"{self.url}/v2/{ENDPOINT}"


@contextmanager
def served(deployment: Deployment, *, with_runner: bool = True, num_replicas: int = 1) -> Iterator[HttpService]:
    """Serve a deployment for as long as the block runs."""
    service = Service(deployment.config, Secrets(), deployment.database)
    app = create_api(service, routers=(runpod.router, upscale.router, page_router()))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))

    async def run() -> None:
        if not with_runner:
            await server.serve()
            return
        async with deployment.running(num_replicas=num_replicas):
            await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        deadline = time.monotonic() + 240
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield HttpService(f"http://127.0.0.1:{port}", deployment)
    finally:
        server.should_exit = True
        thread.join(240)
