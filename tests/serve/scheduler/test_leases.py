"""How long a runner holds its claims."""

import asyncio
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from seedvr2_ray.serve.jobs import Job
from seedvr2_ray.serve.scheduler.job_run import JobRun
from tests.serve.deployment import WatchedRestorers, deploy


@pytest.mark.slow
def test_claims_hold_however_many_jobs_wait_for_a_store_that_does_not_answer(short_clip: Path, tmp_path: Path) -> None:
    is_restoring, may_go_on = threading.Event(), threading.Event()

    def hang(task: object) -> None:
        is_restoring.set()
        may_go_on.wait(240)

    service = deploy(tmp_path, WatchedRestorers(on_segment=hang), lease_seconds=1.0)
    job = service.submit(short_clip)

    async def work() -> None:
        async with service.running() as runner:
            await asyncio.to_thread(is_restoring.wait, 240)
            waiting = [asyncio.create_task(runner._in_thread(may_go_on.wait, 240)) for _ in range(64)]
            await asyncio.sleep(0)
            claimed = service.jobs.get(job.id).lease_until
            assert claimed is not None
            later = claimed + timedelta(seconds=1)
            await service.until(job, lambda now: now.lease_until is not None and now.lease_until > later)
            may_go_on.set()
            await asyncio.gather(*waiting)

    try:
        asyncio.run(work())
    finally:
        may_go_on.set()


@pytest.mark.slow
def test_a_runner_that_takes_its_own_job_again_does_not_work_on_it_twice_at_once(
    short_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_restoring, may_go_on = threading.Event(), threading.Event()

    def hang(task: object) -> None:
        is_restoring.set()
        may_go_on.wait(240)

    at_work: list[int] = []
    num_at_once, run = 0, JobRun.run

    async def counted(self: JobRun) -> None:
        nonlocal num_at_once
        num_at_once += 1
        at_work.append(num_at_once)
        try:
            await run(self)
        finally:
            num_at_once -= 1

    monkeypatch.setattr(JobRun, "run", counted)
    service = deploy(tmp_path, WatchedRestorers(on_segment=hang), lease_seconds=600.0)
    job = service.submit(short_clip)

    async def work() -> Job:
        async with service.running() as runner:
            await asyncio.to_thread(is_restoring.wait, 240)
            service.let_leases_end()
            runner.wake()
            await service.until(job, lambda now: now.num_tries == 2)
            may_go_on.set()
            return await service.until(job)

    try:
        ended = asyncio.run(work())
    finally:
        may_go_on.set()
    assert service.master(ended)
    assert at_work == [1, 1]
