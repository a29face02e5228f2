"""Gangs as replicas of Ray Serve on simulated machines: whatever happens to them, the work is done and they are gone."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import ray
from ray import serve

from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.serve.app import restorer_application
from seedvr2_ray.serve.config import ModelPool
from seedvr2_ray.serve.jobs import JobState
from seedvr2_ray.serve.workers.local import LocalWorkers
from seedvr2_ray.serve.workers.ray_handles import RayWorkers
from tests.gang.machines import machines, wait_for
from tests.media import clips
from tests.restoration.gang.row_shards import RowShards
from tests.serve.deployment import SETTINGS, deploy

pytestmark = [pytest.mark.ray, pytest.mark.slow]

POOL = ModelPool(
    num_gpus=1,
    num_cpus=0.1,
    gang_size=2,
    max_replicas=3,
    downscale_to_zero_seconds=2,
    rank_silence_seconds=4,
)


class GangWorkers(LocalWorkers):
    """Segments go to gangs in Serve, and everything else to threads of this process."""

    def __init__(self, layout, handle):
        super().__init__(layout)
        self._gangs = RayWorkers(layout.data, handle, {"lanczos": handle})

    async def restore(self, order):
        async for item in self._gangs.restore(order):
            yield item


@pytest.fixture(scope="module")
def fleet():
    with machines(3) as fleet:
        serve.start(proxy_location="Disabled")
        yield fleet
        serve.shutdown()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return RowShards(str(tmp_path_factory.mktemp("traces")), pause_seconds=0.02)


@pytest.fixture(scope="module")
def service(fleet, shards, tmp_path_factory):
    service = deploy(tmp_path_factory.mktemp("service"), shards, num_replicas=3)
    service.config = service.config.model_copy(update={"models": {"lanczos": POOL}})
    yield service
    fleet.wait_until_nothing_is_left(shards)


@pytest.fixture(scope="module")
def handle(service):
    application = restorer_application("lanczos", POOL, service.config, service.layout)
    return serve.run(application, name="gangs", route_prefix=None)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "video.mp4"
    clips.make_clip(path, num_frames=60, size=(64, 48), cuts=(20, 40), bframes=2)
    return path


@pytest.fixture(scope="module")
def undisturbed(clip, tmp_path_factory):
    target = tmp_path_factory.mktemp("undisturbed") / "video.mp4"
    restore_video(str(clip), str(target), SETTINGS, LANCZOS, LanczosRestorer, report=False)
    return target.read_bytes()


@asynccontextmanager
async def running(service, handle):
    runner = service.runner(GangWorkers(service.layout, handle))
    task = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition, what):
    await asyncio.to_thread(wait_for, condition, what)


def test_gangs_come_and_go_whole(fleet, shards, service, handle, clip, undisturbed):
    """0 to 1 to 3 to 1 to 0 gangs of two GPUs each."""

    async def grow_and_shrink():
        async with running(service, handle):
            assert fleet.gpus_in_use() == 0
            shards.hold(1)
            shards.hold(2)
            first = service.submit(clip, replace(SETTINGS, segment_seconds=60.0, detect_shots=False, seed=1))
            await until(lambda: fleet.gpus_in_use() == 2 and shards.segments() == 1, "the first gang")
            second = service.submit(clip, replace(SETTINGS, seed=2))
            await until(lambda: fleet.gpus_in_use() == 6 and shards.segments() == 3, "three gangs")
            shards.let_go(2)
            assert service.master(await service.until(second)) == undisturbed
            await until(lambda: fleet.gpus_in_use() == 2, "two gangs to go")
            shards.let_go(1)
            await service.until(first)
            await until(lambda: fleet.gpus_in_use() == 0, "no gang")

    asyncio.run(grow_and_shrink())
    fleet.wait_until_nothing_is_left(shards)
