"""Laws of what runs inside Serve's replicas, without Ray."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from seedvr2_ray.serve import deployments
from seedvr2_ray.serve.deployments import RunnerReplica
from tests.waiting import within


def test_figures_that_cannot_be_shown_end_no_sweeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "_SWEEP_SECONDS", 0.0)

    async def story() -> None:
        loop, has_swept_again, num_swept = asyncio.get_running_loop(), asyncio.Event(), 0

        def sweep() -> None:
            nonlocal num_swept
            num_swept += 1
            if num_swept > 1:
                loop.call_soon_threadsafe(has_swept_again.set)

        async def show() -> None:
            raise RuntimeError("an error that nobody has foreseen")

        replica: Any = SimpleNamespace(_sweeper=SimpleNamespace(sweep=sweep), _show_gauges=show)
        sweeping = asyncio.create_task(RunnerReplica._sweep_and_wait(replica))
        await asyncio.wait([sweeping, asyncio.create_task(has_swept_again.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert has_swept_again.is_set()
        sweeping.cancel()

    asyncio.run(within(240, story()))
