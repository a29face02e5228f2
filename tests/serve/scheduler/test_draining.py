"""What a runner that is replaced hands over."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.jobs import Job
from tests.serve.deployment import deploy


def test_a_job_that_is_claimed_in_the_moment_in_which_its_runner_drains_is_handed_over_at_once(
    short_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed, may_go_on, claim = threading.Event(), threading.Event(), JobStore.claim

    def claim_slowly(*values: Any, **named: Any) -> Sequence[Job]:
        jobs = claim(*values, **named)
        claimed.set()
        may_go_on.wait(240)
        return jobs

    monkeypatch.setattr(JobStore, "claim", claim_slowly)
    service = deploy(tmp_path, lease_seconds=600)
    job = service.submit(short_clip)

    async def work() -> Job:
        async with service.running() as runner:
            await asyncio.to_thread(claimed.wait, 240)
            draining = asyncio.create_task(runner.drain())
            await asyncio.sleep(0)
            may_go_on.set()
            await draining
            return service.jobs.get(job.id)

    assert asyncio.run(work()).runner is None
