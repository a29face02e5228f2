"""Laws of what the dispatcher does with replicas: turns, and what stalls, fails or is not wanted any more."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from seedvr2_ray.errors import StorageError
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.work.failures import RetryPolicy
from seedvr2_ray.serve.config import Limits, ModelPool
from seedvr2_ray.serve.jobs import JobState
from seedvr2_ray.serve.problems import ConflictRefusal
from seedvr2_ray.serve.scheduler.dispatch import Dispatcher, SegmentQueue
from seedvr2_ray.serve.scheduler.fair_share import Candidate
from seedvr2_ray.serve.workers.protocol import SegmentEvent
from tests.serve.deployment import SETTINGS, WatchedRestorers, deploy
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

    asyncio.run(within(60, story()))


@pytest.mark.slow
def test_a_segment_that_stalls_is_given_to_another_replica(clip, undisturbed, tmp_path):
    stuck, release = Counter(), threading.Event()

    def hang_once(task):
        stuck[task.first_frame] += 1
        if task.first_frame == 20 and stuck[20] == 1:
            release.wait(240)

    # Others may stall as well, where the machine does; no segment is given up for it.
    limits = Limits(stall_seconds=0.5, max_segment_tries=20)
    service = deploy(tmp_path, WatchedRestorers(on_segment=hang_once), num_replicas=2, limits=limits)
    job = service.submit(clip)

    async def work():
        async with service.running(num_replicas=2):
            try:
                return await service.until(job)
            finally:
                release.set()

    ended = asyncio.run(work())
    assert service.master(ended) == undisturbed[0]
    assert stuck[20] >= 2


@pytest.mark.slow
def test_a_segment_that_stalls_everywhere_fails_its_job_with_a_reason(clip, tmp_path):
    release = threading.Event()
    limits = Limits(stall_seconds=0.3, max_segment_tries=2)
    hanging = WatchedRestorers(on_segment=lambda task: task.first_frame == 20 and release.wait(240))
    service = deploy(tmp_path, hanging, num_replicas=4, limits=limits)
    job = service.submit(clip)

    async def work():
        async with service.running(num_replicas=4):
            try:
                return await service.until(job)
            finally:
                release.set()

    ended = asyncio.run(work())
    assert ended.state is JobState.FAILED
    assert "no progress for 0.3 s on 2 replicas" in ended.error.detail
    assert ended.error.kind == "unavailable"


@pytest.mark.slow
def test_errors_that_pass_are_waited_for(clip, undisturbed, tmp_path):
    failures = Counter()

    def fail_twice(task):
        failures[task.first_frame] += 1
        if failures[task.first_frame] <= 2:
            raise StorageError("the store is away")

    service = deploy(tmp_path, WatchedRestorers(on_segment=fail_twice))
    job = service.submit(clip)

    async def work():
        async with service.running():
            return await service.until(job)

    assert service.master(asyncio.run(work())) == undisturbed[0]


@pytest.mark.slow
def test_twenty_jobs_of_three_owners_share_the_replicas(tmp_path, short_clip):
    restorers = WatchedRestorers(on_segment=lambda task: time.sleep(0.02))
    service = deploy(tmp_path, restorers, num_replicas=2)
    owners = ["anna"] * 14 + ["bert"] * 3 + ["carl"] * 3
    jobs = [
        service.submit(short_clip, replace(SETTINGS, colour_match="none", seed=number), owner=owner)
        for number, owner in enumerate(owners)
    ]

    async def work():
        async with service.running(num_replicas=2):
            return [await service.until(job) for job in jobs]

    ended = asyncio.run(work())
    assert all(job.state is JobState.COMPLETED for job in ended), [job.error for job in ended]
    order = [job.owner for job in sorted(ended, key=lambda job: job.finished_at)]
    # Whoever has few jobs does not wait for whoever has many.
    assert max(order.index("bert"), order.index("carl")) < 8
    assert {*order[-6:]} == {"anna"}


@pytest.mark.slow
def test_a_short_job_overtakes_a_video(clip, short_clip, tmp_path):
    restorers, (begun, short_waits, short_ended) = WatchedRestorers(), (threading.Event() for _ in range(3))

    def hold(task):
        begun.set()
        short_waits.wait(240)
        if len(restorers.begun) > 4:  # The video's others wait for the short job, which must be before them.
            short_ended.wait(240)

    restorers.on_segment = hold
    service = deploy(tmp_path, restorers)
    video = service.submit(clip)

    async def work():
        async with service.running():
            await asyncio.to_thread(begun.wait, 240)
            short = service.submit(short_clip, owner="bert")
            await service.until(short, lambda now: now.state is JobState.RESTORING)
            short_waits.set()
            ended, video_then = await service.until(short), service.jobs.get(video.id)
            short_ended.set()
            return ended, video_then, await service.until(video)

    short, video_then, video_after = asyncio.run(work())
    assert short.state is video_after.state is JobState.COMPLETED
    assert video_then.state is JobState.RESTORING
    assert video_then.progress.segments_done < video_then.progress.segments_total


@pytest.mark.slow
def test_a_segment_that_is_not_wanted_any_more_frees_its_replica_only_when_its_thread_is_done(clip, tmp_path):
    """Two segments at once would not fit a device's memory."""
    inside, most, lock = Counter(), [], threading.Lock()

    class Counting(WatchedRestorers):
        def load(self, settings):
            return _Counting()

    class _Counting(LanczosRestorer):
        def restore(self, frames, task):
            with lock:
                inside["now"] += 1
                most.append(inside["now"])
            try:
                for batch in super().restore(frames, task):
                    time.sleep(0.05)
                    yield batch
            finally:
                with lock:
                    inside["now"] -= 1

    service = deploy(tmp_path, Counting())
    jobs = [service.submit(clip, replace(SETTINGS, seed=seed)) for seed in range(3)]

    async def work():
        async with service.running():
            for job in jobs:
                await service.until(job, lambda now: now.state is JobState.RESTORING or now.state.is_final)
                await asyncio.sleep(0.2)
                with contextlib.suppress(ConflictRefusal):  # It was quicker.
                    service.jobs.request_cancel(job.id, owner="anna")
            for job in jobs:
                await service.until(job)

    asyncio.run(work())
    assert max(most) == 1
