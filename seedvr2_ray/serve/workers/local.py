"""Workers as threads of this process: a whole service without Ray, as tests and small tools want it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity
from seedvr2_ray.serve.jobs import ResultInfo
from seedvr2_ray.serve.workers import prepare, publish
from seedvr2_ray.serve.workers.protocol import (
    PartOrder,
    PreparedJob,
    PrepareOrder,
    PreviewOrder,
    PublishOrder,
    SegmentEvent,
    SegmentOrder,
)
from seedvr2_ray.serve.workers.segment_stream import SegmentCall
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from seedvr2_ray.settings import RestoreSettings

Result = TypeVar("Result")


class LocalWorkers:
    """A few restorers per model and a few threads for everything else. Belongs to one event loop."""

    def __init__(self, layout: StorageLayout, *, num_replicas: int = 1, num_finishers: int = 2) -> None:
        """Start nothing yet.

        Args:
            layout: where things lie, and where restorers come from.
            num_replicas: segments of one model at a time; each has a restorer of its own.
            num_finishers: threads that prepare, finish and publish.
        """
        self._layout = layout
        self._num_replicas = num_replicas
        self._threads = ThreadPoolExecutor(num_finishers, thread_name_prefix="finisher")
        self._restoring = ThreadPoolExecutor(thread_name_prefix="restorer", max_workers=64)
        self._idle: dict[str, asyncio.Queue[Restorer | None]] = {}

    async def identify(self, model: str, *, again: bool = False) -> RestorerIdentity:
        """Ask the source of the restorers; it does not change while this process lives."""
        return await self._run(partial(self._layout.restorers.identify, RestoreSettings(model=model)))

    async def prepare(self, order: PrepareOrder) -> PreparedJob:
        """Fetch, look, plan."""
        return await self._run(partial(prepare.prepare, self._layout, order))

    async def restore(self, order: SegmentOrder) -> AsyncGenerator[SegmentEvent, None]:
        """Wait for a restorer of the model, and use it until its thread is done, whoever still listens."""
        model = order.recipe.restorer.name
        idle = self._idle_restorers(model)
        restorer = await idle.get()
        call: SegmentCall | None = None
        try:
            if restorer is None:
                load = partial(self._layout.restorers.load, RestoreSettings(model=model))
                restorer = await self._run(load)
            call = SegmentCall(self._layout, order, restorer, self._restoring)
            events = call.events()
            try:
                async for item in events:
                    yield item
            finally:
                await events.aclose()
        finally:
            if call is None:
                idle.put_nowait(restorer)
            else:
                loop = asyncio.get_running_loop()
                call.thread.add_done_callback(lambda _: _give_back(loop, idle, restorer))

    async def finish(self, order: PartOrder) -> None:
        """Finish one part."""
        await self._run(partial(publish.finish, self._layout, order))

    async def publish(self, order: PublishOrder) -> ResultInfo:
        """Join and publish."""
        return await self._run(partial(publish.publish_result, self._layout, order))

    async def preview(self, order: PreviewOrder) -> bool:
        """Make stills."""
        return await self._run(partial(publish.preview, self._layout, order))

    def close(self) -> None:
        """Let the threads end; what still runs in them ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._restoring.shutdown(wait=False, cancel_futures=True)

    def _idle_restorers(self, model: str) -> asyncio.Queue[Restorer | None]:
        if model not in self._idle:
            idle = self._idle[model] = asyncio.Queue()
            for _ in range(self._num_replicas):
                idle.put_nowait(None)
        return self._idle[model]

    async def _run(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


def _give_back(loop: asyncio.AbstractEventLoop, idle: asyncio.Queue[Restorer | None], restorer: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(idle.put_nowait, restorer)
