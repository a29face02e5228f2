"""Laws of a replica's health while a live stream is at it, without Ray."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity, SegmentTask
from seedvr2_ray.serve.live.order import STARTED, LiveOrder
from seedvr2_ray.serve.live.relay import RelayLimits, StreamRelay
from seedvr2_ray.serve.workers.replica import RestorerReplica
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from seedvr2_ray.settings import RestoreSettings
from tests.live.senders import stream_bytes
from tests.waiting import within

ORDER = LiveOrder(
    settings=RestoreSettings(model="lanczos", resolution="x2", preset="ultrafast"), policy="slow", least_factor=0.0
)


class _Hanging(LanczosRestorer):
    """Restores nothing before the gate is opened; or fails instead."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.is_begun, self.gate = threading.Event(), threading.Event()
        self._failure = failure

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        self.is_begun.set()
        if self._failure is not None:
            raise self._failure
        self.gate.wait(240)
        yield from super().restore(frames, task)


class _Source:
    def __init__(self, restorer: Restorer) -> None:
        self._restorer = restorer

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        return LANCZOS

    def load(self, settings: RestoreSettings) -> Restorer:
        return self._restorer


def _replica(folder: Path, restorer: Restorer) -> RestorerReplica:
    layout = StorageLayout(data=str(folder / "data"), scratch=str(folder / "scratch"), restorers=_Source(restorer))
    return RestorerReplica(layout, "lanczos", stall_seconds=0.2)


async def _sending() -> Any:
    """A relay as an actor's handle, with a stream that has been sent whole."""
    relay = StreamRelay("anna", RelayLimits())
    socket, _ = await relay.attach("anna", 0)
    await relay.push(socket, stream_bytes(10, has_sound=False))
    await relay.end_input()
    return SimpleNamespace(take=SimpleNamespace(remote=relay.take), give=SimpleNamespace(remote=relay.give))


@pytest.mark.slow
def test_a_replica_that_hangs_over_a_stream_which_is_to_end_becomes_unhealthy(tmp_path: Path) -> None:
    async def story() -> None:
        restorer = _Hanging()
        replica = _replica(tmp_path, restorer)
        signs = replica.live(ORDER, await _sending())
        assert await anext(signs) == STARTED
        await asyncio.to_thread(restorer.is_begun.wait, 240)
        closing = asyncio.create_task(signs.aclose())
        with pytest.raises(RuntimeError, match="no sign of life"):
            while not closing.done():
                await replica.check_health()
                await asyncio.sleep(0.02)
        restorer.gate.set()
        await closing
        await replica.check_health()

    asyncio.run(within(240, story()))


def test_a_replica_whose_device_a_stream_has_spoiled_becomes_unhealthy(tmp_path: Path) -> None:
    async def story() -> None:
        replica = _replica(tmp_path, _Hanging(torch.AcceleratorError("an illegal memory access")))
        with pytest.raises(torch.AcceleratorError):
            async for _ in replica.live(ORDER, await _sending()):
                pass
        with pytest.raises(RuntimeError, match="the device is unusable"):
            await replica.check_health()

    asyncio.run(within(240, story()))
