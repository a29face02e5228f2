"""The CPU work behind a Serve handle: probing, planning, finishing parts, publishing, stills. No Ray in it."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from seedvr2_ray.serve.jobs import ResultInfo
from seedvr2_ray.serve.observability.instrumentation import Instrumentation
from seedvr2_ray.serve.security.inspection import shared_inspector
from seedvr2_ray.serve.workers import prepare, publish
from seedvr2_ray.serve.workers.protocol import (
    STALLS_OF_A_VIDEO,
    PartOrder,
    PreparedJob,
    PrepareOrder,
    PreviewOrder,
    PublishOrder,
)
from seedvr2_ray.serve.workers.scratch_cleanup import keep_tidy
from seedvr2_ray.serve.workers.storage_layout import StorageLayout

Result = TypeVar("Result")


class Finisher:
    """Does one or a few of these at a time in threads; holds nothing between them."""

    def __init__(
        self, layout: StorageLayout, stall_seconds: float, instrumentation: Instrumentation | None = None
    ) -> None:
        """Start the process that looks at files, so that the first job need not wait for it."""
        if instrumentation is not None:
            instrumentation.start("finisher")
        self._layout = layout
        self._stall_seconds = stall_seconds
        self._lost: dict[asyncio.Future[Any], float] = {}
        """Work for which nobody waits any more, and since when: a thread cannot be stopped."""
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

    async def check_health(self) -> None:
        """Fail when a thread hangs: it holds memory and a processor for good, and only a new process is rid of it.

        Raises:
            RuntimeError: whoever asked has given it up long ago.
        """
        if self._lost:
            silence = time.monotonic() - min(self._lost.values())
            if silence > STALLS_OF_A_VIDEO * self._stall_seconds:
                raise RuntimeError(f"what nobody has waited for since {silence:.0f} s has not ended")

    async def _run(self, function: Callable[[], Result]) -> Result:
        work = asyncio.ensure_future(asyncio.to_thread(function))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not work.done():
                self._lost[work] = time.monotonic()
                work.add_done_callback(self._forget)
            raise

    def _forget(self, work: "asyncio.Future[Any]") -> None:
        del self._lost[work]
        if not work.cancelled():
            work.exception()  # Nobody is left to be told.
