"""Workers behind Serve handles: the one place where the runner's orders meet Ray."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.serve.jobs import ResultInfo
from seedvr2_ray.serve.ray_errors import translated
from seedvr2_ray.serve.workers.identities import known_identity
from seedvr2_ray.serve.workers.protocol import (
    PartOrder,
    PreparedJob,
    PrepareOrder,
    PreviewOrder,
    PublishOrder,
    SegmentEvent,
    SegmentOrder,
)


class RayWorkers:
    """The deployments of one application."""

    def __init__(
        self, data: str, finisher: DeploymentHandle[Any], restorers: Mapping[str, DeploymentHandle[Any]]
    ) -> None:
        """Keep handles.

        Args:
            data: folder or URL of the deployment's data.
            restorers: by the name of their pool.
        """
        self._data = data
        self._finisher = finisher
        self._restorers = dict(restorers)

    async def identify(self, model: str, *, again: bool = False) -> RestorerIdentity:
        """Look up who the last replica was; ask one if there was none, or if that is not true any more."""
        known = None if again else await asyncio.to_thread(known_identity, self._data, model)
        return known or await self._ask(self._restorers[model].identify.remote())

    async def prepare(self, order: PrepareOrder) -> PreparedJob:
        """Fetch, look, plan."""
        prepared: PreparedJob = await self._ask(self._finisher.prepare.remote(order))
        return prepared

    async def restore(self, order: SegmentOrder) -> AsyncGenerator[SegmentEvent, None]:
        """Have a replica restore a segment; closing the generator cancels its request."""
        handle = self._restorers[order.pool or order.recipe.restorer.name]
        response: Any = handle.options(stream=True).restore.remote(order)
        try:
            with translated():
                async for item in response:
                    yield item
        finally:
            response.cancel()

    async def finish(self, order: PartOrder) -> None:
        """Finish one part."""
        await self._ask(self._finisher.finish.remote(order))

    async def publish(self, order: PublishOrder) -> ResultInfo:
        """Join and publish."""
        result: ResultInfo = await self._ask(self._finisher.publish.remote(order))
        return result

    async def preview(self, order: PreviewOrder) -> bool:
        """Make stills."""
        return bool(await self._ask(self._finisher.preview.remote(order)))

    async def _ask(self, response: Any) -> Any:
        try:
            with translated():
                return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
