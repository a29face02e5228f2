"""A runner whose segments go to replicas of Ray Serve, and everything else to threads of this process."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from seedvr2_ray.serve.workers.local import LocalWorkers
from seedvr2_ray.serve.workers.ray_handles import RayWorkers
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from tests.serve.deployment import Deployment


class ReplicaWorkers(LocalWorkers):
    """Workers of which only those that restore are replicas."""

    def __init__(self, layout: StorageLayout, handles: Mapping[str, Any]) -> None:
        super().__init__(layout)
        finisher = next(iter(handles.values()))  # Never asked to finish.
        self._replicas = RayWorkers(layout.data, finisher, handles)

    async def restore(self, order: Any) -> AsyncIterator[Any]:
        async for item in self._replicas.restore(order):
            yield item


@asynccontextmanager
async def running(service: Deployment, handles: Mapping[str, Any]) -> AsyncIterator[None]:
    """A runner at work as long as the block runs.

    Args:
        handles: of replicas, by the name of their pool.
    """
    task = asyncio.create_task(service.runner(ReplicaWorkers(service.layout, handles)).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
