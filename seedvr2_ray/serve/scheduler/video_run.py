"""The long middle of a job: segments to replicas, parts to finishers, stills and progress as they come."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from seedvr2_ray.errors import RetryableError, StorageError
from seedvr2_ray.restoration.work.failures import RetryPolicy
from seedvr2_ray.serve.config import Limits, ModelPool, ServiceConfig, pool_name
from seedvr2_ray.serve.db.job_rows import Changes
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.db.usage_store import UsageStore
from seedvr2_ray.serve.jobs import Job
from seedvr2_ray.serve.results import Results
from seedvr2_ray.serve.scheduler.dispatch import Dispatcher, Restored, SegmentQueue
from seedvr2_ray.serve.scheduler.fair_share import Candidate
from seedvr2_ray.serve.scheduler.video_progress import VideoProgress
from seedvr2_ray.serve.service.rates import Rates
from seedvr2_ray.serve.service.shares import SharedPlaces
from seedvr2_ray.serve.workers.protocol import PartOrder, SegmentOrder, Workers
from seedvr2_ray.telemetry.metrics import count, observe

_log = logging.getLogger(__name__)

_NOTE_SECONDS = 0.5
"""Progress is written at most so often."""
_MOST_PARTS_AT_ONCE = 4
"""Of one job, so that a long video leaves finishers to others."""

_STALLS_OF_A_PART = 2
"""A finisher says nothing while it works, so it gets more time than the silence of a replica."""


class InThread(Protocol):
    """Calls something that waits for the database or for storage, away from the event loop."""

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Return what the function returns."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all jobs of one runner use."""

    config: ServiceConfig
    jobs: JobStore
    usage: UsageStore
    results: Results
    workers: Workers
    dispatcher: Dispatcher
    retries: RetryPolicy
    limits: Callable[[], Limits]
    in_thread: InThread
    rates: Rates
    preparations: SharedPlaces
    """Of finishers that fetch and look at sources: one owner's slow servers leave some to others."""
    in_progress: dict[str, asyncio.Event] = field(default_factory=dict)
    """Results that one of the jobs is making; others that ask for the same wait for it."""


@contextlib.asynccontextmanager
async def deadline(seconds: float, what: str) -> AsyncIterator[None]:
    """Give a call up that takes longer than anybody planned for: whoever is at work on it hangs.

    Raises:
        RetryableError: it took too long; somebody else may do it.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise RetryableError(f"{what} took longer than {seconds:g} s; its process may hang") from error


@dataclass(slots=True)
class Meter:
    """What a job has taken so far, under every claim."""

    model: str
    pool: ModelPool | None
    """Whose replicas restore the job: the model's own, until it is planned for one of its gangs."""
    gpu_seconds: float
    megapixels: float = 0.0
    """Under this claim."""

    @property
    def cost(self) -> float:
        """At the price of the model's devices."""
        return 0.0 if self.pool is None else self.gpu_seconds * self.pool.price_per_gpu_hour / 3600

    def add_seconds(self, seconds: float) -> None:
        """A replica was at work, whatever came of it."""
        gpu_seconds = seconds * (1 if self.pool is None else self.pool.gang_size)
        self.gpu_seconds += gpu_seconds
        count("seedvr2_gpu_seconds", gpu_seconds)

    def changes(self) -> Changes:
        """Return what the job's row is to say."""
        return {"gpu_seconds": round(self.gpu_seconds, 3), "cost": round(self.cost, 6)}


class VideoRun:
    """Has one planned job restored and finished. Runs once."""

    def __init__(self, job: Job, video: VideoProgress, meter: Meter, shared: Shared) -> None:
        self._job = job
        self._video = video
        self._meter = meter
        self._shared = shared
        self._has_changed = asyncio.Event()
        self._parts: dict[asyncio.Task[None], PartOrder] = {}

    async def run(self) -> None:
        """Return when every part is committed.

        Raises:
            LeaseLost: the job is somebody else's.
            SeedVR2Error: whatever a segment or a part could not be made for.
        """
        queue = self._open_queue()
        noting = asyncio.create_task(self._note_progress())
        try:
            await self._follow(queue, noting)
        finally:
            tasks = [noting, *self._parts]
            for task in tasks:
                task.cancel()
            await self._shared.dispatcher.close_queue(queue)
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, queue: SegmentQueue, noting: asyncio.Task[None]) -> None:
        video = self._video
        outcome = asyncio.create_task(queue.outcomes.get())
        try:
            while not video.work.is_done:
                await self._make_preview()
                for order in video.part_orders(_MOST_PARTS_AT_ONCE - len(self._parts)):
                    self._parts[asyncio.create_task(self._finish_part(order))] = order
                await asyncio.wait([outcome, noting, *self._parts], return_when=asyncio.FIRST_COMPLETED)
                if noting.done():
                    noting.result()  # Raises: it ends only when the claim is lost.
                if outcome.done():
                    self._take(outcome.result())
                    outcome = asyncio.create_task(queue.outcomes.get())
                for task in [task for task in self._parts if task.done()]:
                    order = self._parts.pop(task)
                    task.result()
                    video.take_part(order)
                self._has_changed.set()
        finally:
            outcome.cancel()

    def _open_queue(self) -> SegmentQueue:
        job, video, own = self._job, self._video, self._shared.config.models[self._meter.model]
        assert self._meter.pool is not None, "a planned job has a pool"
        pool = pool_name(self._meter.model, own, self._meter.pool.gang_size)
        return self._shared.dispatcher.open_queue(
            Candidate(
                job_id=job.id, owner=job.owner, priority=job.priority, order=int(job.created_at.timestamp() * 1e3)
            ),
            pool,
            video.segment_orders(self._shared.limits().max_segment_tries, pool),
            megapixels_per_frame=video.megapixels_per_frame,
            on_frames=self._take_frames,
            on_seconds=self._meter.add_seconds,
        )

    def _take_frames(self, order: SegmentOrder, num_frames: int) -> None:
        if num_frames:
            megapixels = num_frames * self._video.megapixels_per_frame
            self._video.take_frames(order.segment.index, num_frames, time.monotonic())
            self._meter.megapixels += megapixels
            count("seedvr2_frames", num_frames)
            count("seedvr2_megapixels", megapixels)
        else:
            self._video.take_back(order.segment.index)
        self._has_changed.set()

    def _take(self, outcome: Restored | BaseException) -> None:
        if isinstance(outcome, BaseException):
            raise outcome
        segment, record = outcome.order.segment, outcome.record
        self._video.take_restored(segment.index)
        count("seedvr2_idle_seconds", float(record["idle_seconds"]))
        observe("seedvr2_stage_seconds", float(record["seconds"]), stage="restore")
        observe("seedvr2_frames_per_second", segment.num_frames / max(record["seconds"], 1e-3), stage="restore")

    async def _make_preview(self) -> None:
        """Make stills from the first segment that is in, before its intermediate is used up."""
        order = self._video.preview_order()
        if order is None:
            return
        try:
            async with deadline(_STALLS_OF_A_PART * self._shared.limits().stall_seconds, "making the stills"):
                self._video.has_preview = await self._shared.workers.preview(order)
        except Exception as error:  # noqa: BLE001  # Stills come with the result at the latest.
            _log.warning("no preview of %s yet: %s", self._job.id, error)
        self._has_changed.set()

    async def _finish_part(self, order: PartOrder) -> None:
        began = time.monotonic()
        async with deadline(_STALLS_OF_A_PART * self._shared.limits().stall_seconds, "finishing a part"):
            await self._shared.workers.finish(order)
        seconds = max(time.monotonic() - began, 1e-3)
        observe("seedvr2_stage_seconds", seconds, stage="finish")
        observe("seedvr2_frames_per_second", order.around.segment.part_frames / seconds, stage="finish")

    async def _note_progress(self) -> None:
        """Write progress when there is some, and not more often than it is worth."""
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            progress = self._video.snapshot(time.monotonic())
            with contextlib.suppress(StorageError):
                await self._shared.in_thread(
                    self._shared.jobs.note,
                    self._job.id,
                    self._job.fence,
                    progress=progress,
                    **self._meter.changes(),
                )
            await asyncio.sleep(_NOTE_SECONDS)
