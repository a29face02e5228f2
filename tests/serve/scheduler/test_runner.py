"""A runner with threads for replicas: what happens to jobs, whatever happens to runners and replicas."""

import asyncio
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.restoration.load import CatalogueRestorers
from seedvr2_ray.serve.config import GangPool, Limits, ModelPool
from seedvr2_ray.serve.jobs import JobState
from seedvr2_ray.serve.workers.local import LocalWorkers
from tests.serve.deployment import SETTINGS, WatchedRestorers, deploy

pytestmark = pytest.mark.slow


def test_a_job_gives_the_bytes_that_the_command_line_gives(clip, undisturbed, tmp_path):
    service = deploy(tmp_path, num_replicas=2)
    job = service.submit(clip, name="Ferien am Meer.mp4", metadata={"note": "x"})
    seen = []

    async def work():
        async with service.running(num_replicas=2):
            return await service.until(job, lambda now: seen.append(now) or now.state.is_final)

    ended = asyncio.run(work())
    assert service.master(ended) == undisturbed[0]
    assert ended.result.name == "Ferien am Meer-restored.mp4"
    assert (ended.result.media_type, ended.result.num_frames) == ("video/mp4", 50)
    assert not ended.result.was_cached
    assert ended.progress.frames_done == ended.progress.frames_total == 58
    done = [now.progress.frames_done for now in seen]
    assert done == sorted(done)
    assert {now.state for now in seen} >= {JobState.RESTORING, JobState.COMPLETED}
    assert "Ferien" not in str(service.sidecar(ended))
    for kind in ("before", "after", "report"):
        assert service.layout.results.has(kind, ended.result.address)
    used = sum(day.gpu_seconds for day in service.usage.by_day(owner="anna", since=job.created_at))
    assert used == pytest.approx(ended.gpu_seconds, abs=1e-3)
    assert used > 0


@pytest.mark.parametrize("stop_at", [1, 3, 6, 8])
def test_a_job_whose_runner_is_killed_goes_on_elsewhere_to_the_same_bytes_and_repeats_no_committed_segment(
    clip, undisturbed, tmp_path, stop_at
):
    restorers, reached, killed = WatchedRestorers(), threading.Event(), threading.Event()

    def wait_to_be_killed(task):
        if len(restorers.begun) >= stop_at and not killed.is_set():
            reached.set()
            killed.wait(240)

    restorers.on_segment = wait_to_be_killed
    service = deploy(tmp_path, restorers)
    job = service.submit(clip)

    async def work():
        async with service.running():
            await asyncio.to_thread(reached.wait, 240)
        killed.set()
        first = list(restorers.begun)
        restorers.begun.clear()
        async with service.running():
            return first, await service.until(job)

    first, ended = asyncio.run(work())
    assert service.master(ended) == undisturbed[0]
    assert ended.num_tries == 2
    # What was at work when the runner was killed is repeated, and nothing else.
    repeated = set(first) & set(restorers.begun)
    assert repeated <= set(first[-2:])
    assert sorted({*first, *restorers.begun}) == undisturbed[1]


def test_a_job_that_is_cancelled_stops_within_a_batch(clip, tmp_path):
    batches, begun, go_on = [], threading.Event(), threading.Event()

    def hold(task):
        batches.append(threading.current_thread())
        begun.set()
        go_on.wait(240)

    service = deploy(tmp_path, WatchedRestorers(on_batch=hold))
    job = service.submit(clip, webhook_url="https://example.org/hook")

    async def work():
        async with service.running():
            await asyncio.to_thread(begun.wait, 240)
            service.jobs.request_cancel(job.id, owner="anna")
            ended = await service.until(job)  # Though the batch goes on.
            go_on.set()
            return ended

    ended = asyncio.run(work())
    assert ended.state is JobState.CANCELLED
    batches[0].join(240)
    assert not batches[0].is_alive() and len(batches) <= 2, "of 58"
    assert sum(day.gpu_seconds for day in service.usage.by_day(owner="anna", since=job.created_at)) > 0


def test_a_runner_that_lost_its_claim_writes_nothing_more(clip, tmp_path):
    begun, go_on, at_work = threading.Event(), threading.Event(), []

    def hold(task):
        at_work.append(threading.current_thread())
        begun.set()
        go_on.wait(240)

    # No room for another job: between the two lines of the theft, the runner would now and then be quicker.
    service = deploy(tmp_path, WatchedRestorers(on_segment=hold), limits=Limits(max_active_jobs=1))
    job = service.submit(clip)

    async def work():
        async with service.running() as runner:
            await asyncio.to_thread(begun.wait, 240)
            held = service.jobs.get(job.id)
            service.jobs.release(held.runner, {job.id: held.fence})
            (stolen,) = service.jobs.claim("thief", lease_seconds=600, limit=1)
            await service.until(job, lambda _: runner.num_active == 0)
            go_on.set()
            return stolen

    stolen = asyncio.run(work())
    at_work[0].join(240)
    assert not at_work[0].is_alive()
    now = service.jobs.get(job.id)
    assert (now.runner, now.fence, now.version) == ("thief", stolen.fence, stolen.version)


def test_a_runner_that_drains_hands_its_jobs_over_at_once(clip, undisturbed, tmp_path):
    begun = threading.Event()
    service = deploy(tmp_path, WatchedRestorers(on_batch=lambda task: begun.set() or time.sleep(0.02)))
    jobs = [service.submit(clip, replace(SETTINGS, crf=crf)) for crf in (-1, 30)]

    async def work():
        async with service.running() as runner:
            await asyncio.to_thread(begun.wait, 240)
            await runner.drain(grace_seconds=5)
            handed_over = [service.jobs.get(job.id) for job in jobs]
        async with service.running():
            return handed_over, [await service.until(job) for job in jobs]

    handed_over, ended = asyncio.run(work())
    assert [job.runner for job in handed_over] == [None, None]
    assert service.master(ended[0]) == undisturbed[0]
    assert [job.state for job in ended] == [JobState.COMPLETED] * 2


class _Missing(WatchedRestorers):
    def load(self, settings):
        raise DeploymentError("the weights of lanczos are not here; pull them")


@pytest.mark.parametrize(
    ("restorers", "content", "kind", "words"),
    [
        # Where weights lie is the operator's business: the log has it.
        (_Missing(), None, "deployment", "a reason of its own"),
        (WatchedRestorers(), b"no film at all", "media", "film.mp4"),
        (WatchedRestorers(on_segment=lambda task: {}["surprise"]), None, "internal", "unexpected KeyError"),
    ],
)
def test_a_job_that_cannot_be_done_fails_with_the_kind_of_its_error(
    short_clip, tmp_path, restorers, content, kind, words
):
    source = tmp_path / "source.mp4"
    source.write_bytes(short_clip.read_bytes() if content is None else content)
    service = deploy(tmp_path, restorers)
    job = service.submit(source)

    async def work():
        async with service.running():
            return await service.until(job)

    ended = asyncio.run(work())
    assert ended.state is JobState.FAILED
    assert ended.error.kind == kind
    assert words in ended.error.detail
    assert str(tmp_path) not in ended.error.detail


def test_jobs_that_ask_for_the_same_are_restored_once(short_clip, tmp_path):
    restorers = WatchedRestorers(on_segment=lambda task: time.sleep(0.2))
    service = deploy(tmp_path, restorers, num_replicas=3)
    jobs = [service.submit(short_clip, owner=owner, name=f"{owner}.mp4") for owner in ("anna", "bert", "carl")]

    async def work():
        async with service.running(num_replicas=3):
            return [await service.until(job) for job in jobs]

    ended = asyncio.run(work())
    assert len(restorers.begun) == 1
    assert not any(job.result.was_cached for job in ended), "nobody learns that others have the same file"
    assert all(job.progress.has_preview for job in ended), "the stills are those of the first"
    assert [job.result.name for job in ended] == [f"{owner}-restored.mp4" for owner in ("anna", "bert", "carl")]
    assert len({service.master(job) for job in ended}) == 1


def test_limits_change_while_jobs_run(short_clip, tmp_path):
    at_work, most, lock, may_share, two = Counter(), [], threading.Lock(), threading.Event(), threading.Event()

    def note(task):
        with lock:
            at_work["now"] += 1
            most.append(at_work["now"])
            if at_work["now"] > 1:
                two.set()
        if len(most) > 1:
            may_share.wait(240)
            two.wait(240)
        with lock:
            at_work["now"] -= 1

    service = deploy(tmp_path, WatchedRestorers(on_segment=note), num_replicas=4, limits=Limits(max_active_jobs=1))
    jobs = [service.submit(short_clip, replace(SETTINGS, seed=seed)) for seed in range(5)]

    async def work():
        async with service.running(num_replicas=4) as runner:
            await service.until(jobs[0])
            alone = max(most)
            runner.replace_limits(Limits(max_active_jobs=10))
            may_share.set()
            for job in jobs:
                await service.until(job)
            return alone

    assert asyncio.run(work()) == 1
    assert max(most) > 1


def test_a_runner_that_is_woken_in_the_moment_of_its_end_ends(tmp_path):
    service = deploy(tmp_path)

    async def work():
        async with service.running() as runner:
            await asyncio.sleep(0.3)  # It has looked for jobs, and waits for something new.
            runner.wake()

    asyncio.run(work())


def test_nano_restores_a_clip_as_a_job(short_clip, tmp_path):
    service = deploy(tmp_path, CatalogueRestorers())
    service.config = service.config.model_copy(update={"models": {"nano": ModelPool()}})
    job = service.submit(short_clip, replace(SETTINGS, model="nano", resolution="64x48"))

    async def work():
        async with service.running():
            return await service.until(job, seconds=120)

    ended = asyncio.run(work())
    assert service.master(ended)
    assert service.sidecar(ended)["restorer"]["name"] == "nano"


def test_a_job_goes_to_the_gangs_of_the_size_it_asks_for_and_pays_for_each_of_their_devices(short_clip, tmp_path):
    service, pools, speeds = deploy(tmp_path), {}, {}
    models = {"lanczos": ModelPool(gangs={2: GangPool()})}
    service.config = service.config.model_copy(update={"models": models})

    class Workers(LocalWorkers):
        async def restore(self, order):
            pools[order.job_id] = order.pool
            async for event in super().restore(order):
                if event.record is not None:
                    speeds[order.job_id] = event.record["seconds"]
                yield event

    async def work():
        workers = Workers(service.layout)
        task = asyncio.create_task(service.runner(workers).run())
        jobs = [service.submit(short_clip, replace(SETTINGS, seed=n or 9), gang_size=n) for n in (None, 1, 2, 3)]
        try:
            return [await service.until(job) for job in jobs]
        finally:
            task.cancel()
            await asyncio.wait([task])
            workers.close()

    plain, alone, shared, refused = asyncio.run(work())
    assert [pools[job.id] for job in (plain, alone, shared)] == ["lanczos", "lanczos", "lanczos-gang-2"]
    assert shared.gpu_seconds >= 2 * speeds[shared.id]
    assert "deployed here in gangs of 1 or 2, not of 3" in refused.error.detail
