"""Laws of what the dispatcher does with replicas that is not a matter of shares."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from seedvr2_ray.restoration.work.failures import RetryPolicy
from seedvr2_ray.serve.config import Limits, ModelPool
from seedvr2_ray.serve.scheduler.dispatch import Dispatcher, SegmentQueue
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


def _open_queue(dispatcher: Dispatcher, job_id: str, begun: asyncio.Event) -> SegmentQueue:
    order: Any = SimpleNamespace(job_id=job_id, segment=SimpleNamespace(index=0, num_frames=5))
    return dispatcher.open_queue(
        Candidate(job_id=job_id, owner="anna", priority=0, order=0),
        "lanczos",
        [order],
        megapixels_per_frame=1.0,
        on_frames=lambda order, num_frames: begun.set(),
        on_seconds=lambda seconds: None,
    )


def _dispatcher(workers: _Workers) -> Dispatcher:
    return Dispatcher(workers, {"lanczos": ModelPool()}, Limits, RetryPolicy())  # type: ignore[arg-type]


def test_a_replica_that_reports_in_the_moment_in_which_nobody_wants_its_segment_any_more_is_stopped() -> None:
    async def story() -> bool:
        workers, begun = _Workers(), asyncio.Event()
        dispatcher = _dispatcher(workers)
        queue = _open_queue(dispatcher, "a", begun)
        workers.has_frame.set()
        await begun.wait()
        await asyncio.sleep(0)
        workers.has_frame.set()
        await dispatcher.close_queue(queue)
        return workers.is_stopped

    assert asyncio.run(within(60, story()))


def test_a_segment_that_is_not_wanted_any_more_in_the_moment_in_which_it_is_sent_holds_no_place_in_its_pool() -> None:
    async def story() -> None:
        workers, begun = _Workers(), asyncio.Event()
        dispatcher = _dispatcher(workers)
        await dispatcher.close_queue(_open_queue(dispatcher, "a", begun))
        assert dispatcher.num_waiting == 0
        queue = _open_queue(dispatcher, "b", begun)
        workers.has_frame.set()
        await begun.wait()
        await dispatcher.close_queue(queue)

    asyncio.run(within(5, story()))
