"""Laws of a finisher's health, without Ray."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from seedvr2_ray.serve.workers import publish
from seedvr2_ray.serve.workers.finisher import Finisher
from seedvr2_ray.serve.workers.storage_layout import StorageLayout


def test_a_finisher_whose_thread_hangs_becomes_unhealthy_once_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = threading.Event(), threading.Event()

    def hang(*_: object) -> bool:
        begun.set()
        gate.wait(240)
        raise OSError("too late for anybody")

    monkeypatch.setattr(publish, "preview", hang)
    order: Any = None

    async def story() -> None:
        finisher = Finisher(StorageLayout(data=str(tmp_path), scratch=str(tmp_path)), stall_seconds=0.0)
        asked = asyncio.create_task(finisher.preview(order))
        await asyncio.to_thread(begun.wait, 240)
        await finisher.check_health()
        asked.cancel()
        await asyncio.wait([asked])
        with pytest.raises(RuntimeError, match="has not ended"):
            await finisher.check_health()
        gate.set()
        while finisher._lost:
            await asyncio.sleep(0.01)
        await finisher.check_health()

    asyncio.run(story())
