"""Laws of what the dispatcher does with replicas that is not a matter of shares."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from seedvr2_ray.restoration.work.failures import RetryPolicy
from seedvr2_ray.serve.config import Limits, ModelPool
from seedvr2_ray.serve.scheduler.dispatch import Dispatcher
from seedvr2_ray.serve.scheduler.fair_share import Candidate
from seedvr2_ray.serve.workers.protocol import SegmentEvent
from tests.waiting import within


class _Workers:
    """A replica that reports a frame whenever it is told to, and is never done."""

    def __init__(self) -> None:
        self.has_frame = asyncio.Event()
        self.is_stopped = False

    async def restore(self, order: Any) -> AsyncGenerator[SegmentEvent, None]:
        try:
            yield SegmentEvent(started=True)
            while True:
                await self.has_frame.wait()
                self.has_frame.clear()
                yield SegmentEvent(num_frames=1)
        finally:
            self.is_stopped = True


def test_a_replica_that_reports_in_the_moment_in_which_nobody_wants_its_segment_any_more_is_stopped() -> None:
    async def story() -> bool:
        workers, begun = _Workers(), asyncio.Event()
        dispatcher = Dispatcher(workers, {"lanczos": ModelPool()}, Limits, RetryPolicy())  # type: ignore[arg-type]
        order: Any = SimpleNamespace(job_id="a", segment=SimpleNamespace(index=0, num_frames=5))
        queue = dispatcher.open_queue(
            Candidate(job_id="a", owner="anna", priority=0, order=0),
            "lanczos",
            [order],
            megapixels_per_frame=1.0,
            on_frames=lambda order, num_frames: begun.set(),
            on_seconds=lambda seconds: None,
        )
        workers.has_frame.set()
        await begun.wait()
        await asyncio.sleep(0)
        workers.has_frame.set()
        await dispatcher.close_queue(queue)
        return workers.is_stopped

    assert asyncio.run(within(60, story()))
