"""How long a runner holds its claims."""

import asyncio
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from tests.media.clips import make_clip
from tests.serve.deployment import WatchedRestorers, deploy


@pytest.mark.slow
def test_claims_hold_however_many_jobs_wait_for_a_store_that_does_not_answer(tmp_path: Path) -> None:
    is_restoring, may_go_on = threading.Event(), threading.Event()

    def hang(task: object) -> None:
        is_restoring.set()
        may_go_on.wait(240)

    make_clip(tmp_path / "short.mp4", num_frames=8, size=(64, 48))
    service = deploy(tmp_path, WatchedRestorers(on_segment=hang), lease_seconds=1.0)
    job = service.submit(tmp_path / "short.mp4")

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
