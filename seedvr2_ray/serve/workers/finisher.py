"""The CPU work behind a Serve handle: probing, planning, finishing parts, publishing, stills. No Ray in it."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from seedvr2_ray.serve.jobs import ResultInfo
from seedvr2_ray.serve.observability.instrumentation import Instrumentation
from seedvr2_ray.serve.security.inspection import shared_inspector
from seedvr2_ray.serve.workers import prepare, publish
from seedvr2_ray.serve.workers.protocol import PartOrder, PreparedJob, PrepareOrder, PreviewOrder, PublishOrder
from seedvr2_ray.serve.workers.scratch_cleanup import keep_tidy
from seedvr2_ray.serve.workers.storage_layout import StorageLayout

Result = TypeVar("Result")


class Finisher:
    """Does one or a few of these at a time in threads; holds nothing between them."""

    def __init__(self, layout: StorageLayout, instrumentation: Instrumentation | None = None) -> None:
        """Start the process that looks at files, so that the first job need not wait for it."""
        if instrumentation is not None:
            instrumentation.start("finisher")
        self._layout = layout
        keep_tidy(layout)
        shared_inspector().start()

    async def prepare(self, order: PrepareOrder) -> PreparedJob:
        """Fetch, look, plan."""
        return await self._run(partial(prepare.prepare, self._layout, order))

    async def finish(self, order: PartOrder) -> None:
        """Finish one part."""
        await self._run(partial(publish.finish, self._layout, order))

    async def publish(self, order: PublishOrder) -> ResultInfo:
        """Join and publish."""
        return await self._run(partial(publish.publish_result, self._layout, order))

    async def preview(self, order: PreviewOrder) -> bool:
        """Make stills."""
        return await self._run(partial(publish.preview, self._layout, order))

    async def _run(self, function: Callable[[], Result]) -> Result:
        return await asyncio.to_thread(function)
