"""Laws of the long middle of a job."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from seedvr2_ray.serve.config import Limits
from seedvr2_ray.serve.jobs import JobState
from seedvr2_ray.serve.workers.local import LocalWorkers
from tests.serve.deployment import deploy


@pytest.mark.slow
def test_stills_that_are_never_made_hold_up_no_job(
    short_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(workers: LocalWorkers, order: Any) -> bool:
        await asyncio.Event().wait()
        return False

    monkeypatch.setattr(LocalWorkers, "preview", hang)
    service = deploy(tmp_path, limits=Limits(stall_seconds=0.5, max_segment_tries=20))
    job = service.submit(short_clip)

    async def work() -> JobState:
        async with service.running():
            return (await service.until(job)).state

    assert asyncio.run(work()) is JobState.COMPLETED
