"""A runner whose segments go to replicas of Ray Serve, and everything else to threads of this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from seedvr2_ray.serve.workers.local import LocalWorkers
from seedvr2_ray.serve.workers.ray_handles import RayWorkers
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from tests.serve.deployment import Deployment


class ReplicaWorkers(LocalWorkers):
    """Workers of which only those that restore are replicas."""

    def __init__(self, layout: StorageLayout, handle: Any) -> None:
        super().__init__(layout)
        self._replicas = RayWorkers(layout.data, handle, {"lanczos": handle})

    async def restore(self, order: Any) -> AsyncIterator[Any]:
        async for item in self._replicas.restore(order):
            yield item


@asynccontextmanager
async def running(service: Deployment, handle: Any) -> AsyncIterator[None]:
    """A runner at work as long as the block runs."""
    task = asyncio.create_task(service.runner(ReplicaWorkers(service.layout, handle)).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
