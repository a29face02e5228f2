"""Gangs as replicas of Ray Serve on simulated machines: whatever happens, the work is done and nothing is left."""

import asyncio
import os
import signal
from dataclasses import replace

import pytest
from ray import serve

from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.serve.app import restorer_application
from seedvr2_ray.serve.config import GangPool, ModelPool, pool_name
from seedvr2_ray.serve.jobs import JobState
from tests.gang.machines import ON_MACHINES, machines
from tests.gang.serving import running
from tests.media import clips
from tests.restoration.gang.row_shards import RowShards, folders, processes_left
from tests.serve.deployment import SETTINGS, deploy
from tests.waiting import wait_for

pytestmark = ON_MACHINES

WHOLE = replace(SETTINGS, segment_seconds=60.0, detect_shots=False)
"""One segment, and so one gang."""
POOL = ModelPool(
    num_gpus=1,
    num_cpus=0.1,
    gang_size=2,
    max_replicas=3,
    downscale_to_zero_seconds=2,
    rank_silence_seconds=4,
)


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
    restore_video(str(clip), str(target), WHOLE, LANCZOS, LanczosRestorer, report=False)
    return target.read_bytes()


async def until(condition, what):
    await asyncio.to_thread(wait_for, condition, what)


def test_gangs_come_and_go_whole(fleet, shards, service, handle, clip, undisturbed):
    """0 to 1 to 3 to 1 to 0 gangs of two GPUs each."""

    async def grow_and_shrink():
        async with running(service, {"lanczos": handle}):
            assert fleet.gpus_in_use() == 0
            shards.hold(1)
            shards.hold(2)
            first = service.submit(clip, replace(WHOLE, seed=1))
            await until(lambda: fleet.gpus_in_use() == 2 and shards.segments() == 1, "the first gang")
            second = service.submit(clip, replace(SETTINGS, seed=2))
            await until(lambda: fleet.gpus_in_use() == 6 and shards.segments() == 3, "three gangs")
            shards.let_go(2)
            await service.until(second)
            await until(lambda: fleet.gpus_in_use() == 2, "two gangs to go")
            shards.let_go(1)
            assert service.master(await service.until(first)) == undisturbed
            await until(lambda: fleet.gpus_in_use() == 0, "no gang")

    asyncio.run(grow_and_shrink())
    fleet.wait_until_nothing_is_left(shards)


def test_one_model_in_two_sizes_restores_each_job_on_as_many_gpus_as_it_asks_for(
    fleet, shards, service, handle, clip, undisturbed
):
    own = POOL.model_copy(update={"gangs": {1: GangPool()}})
    of_two = service.config
    service.config = of_two.model_copy(update={"models": {"lanczos": own}})
    single = pool_name("lanczos", own, 1)
    single_handle = serve.run(
        restorer_application("lanczos", own.sizes[1], service.config, service.layout, own=own),
        name=single,
        route_prefix=None,
    )

    async def restore_on_both():
        async with running(service, {"lanczos": handle, single: single_handle}):
            shards.hold(20)
            shards.hold(21)
            began = shards.segments()
            alone = service.submit(clip, replace(WHOLE, seed=20), gang_size=1)
            await until(lambda: shards.segments() == began + 1, "one GPU at work")
            assert fleet.gpus_in_use() == 1
            together = service.submit(clip, replace(WHOLE, seed=21), gang_size=2)
            await until(lambda: shards.segments() == began + 2, "a gang beside it")
            assert fleet.gpus_in_use() == 3
            shards.let_go(20)
            shards.let_go(21)
            for job in (alone, together):
                assert service.master(await service.until(job, seconds=120)) == undisturbed

    try:
        asyncio.run(restore_on_both())
    finally:
        service.config = of_two
        serve.delete(single)
    fleet.wait_until_nothing_is_left(shards)


def leader(fleet):
    """Return the process that leads the only gang. Serve's names of actors are no help: those that go keep them."""
    (folder,) = folders() - fleet.folders_before
    return int(folder.name.split("-")[2])


def kill_rank(fleet, shards):
    os.kill(shards.pid_of(1), signal.SIGKILL)


def stop_rank(fleet, shards):
    os.kill(shards.pid_of(0), signal.SIGSTOP)


def kill_leader(fleet, shards):
    os.kill(leader(fleet), signal.SIGKILL)


def lose_machine(fleet, shards):
    fleet.lose_that_of(leader(fleet))


@pytest.mark.parametrize("fault", [kill_rank, stop_rank, kill_leader, lose_machine])
def test_a_gang_that_loses_anything_in_mid_segment_leaves_the_job_the_same_bytes(
    fleet, shards, service, handle, clip, undisturbed, fault
):
    seed = 10 + len(shards.pids())

    async def disturb():
        async with running(service, {"lanczos": handle}):
            shards.hold(seed)
            before = shards.segments()
            job = service.submit(clip, replace(WHOLE, seed=seed))
            await until(lambda: fleet.gpus_in_use() == 2 and shards.segments() > before, "one gang, at a segment")
            ranks = processes_left(shards.pids())
            await asyncio.to_thread(fault, fleet, shards)
            await until(lambda: not processes_left(ranks), "the old ranks to go")
            shards.let_go(seed)
            assert service.master(await service.until(job, seconds=120)) == undisturbed

    try:
        asyncio.run(disturb())
    finally:
        shards.let_go(seed)


def test_a_job_that_is_cancelled_in_mid_segment_leaves_its_gang_to_the_next(
    fleet, shards, service, handle, clip, undisturbed
):
    async def cancel():
        async with running(service, {"lanczos": handle}):
            before = shards.segments()
            job = service.submit(clip, replace(WHOLE, seed=8))
            await until(lambda: shards.segments() > before, "a segment at work")
            ranks = processes_left(shards.pids())
            service.jobs.request_cancel(job.id, owner="anna")
            assert (await service.until(job)).state is JobState.CANCELLED
            after = service.submit(clip, replace(WHOLE, seed=9))
            assert service.master(await service.until(after, seconds=120)) == undisturbed
            assert set(ranks) <= set(processes_left(shards.pids()))

    asyncio.run(cancel())
