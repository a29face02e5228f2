"""Processes of a really running service are killed and replaced in mid-job: nothing is lost, and nothing differs."""

import hashlib
import os
import signal
from datetime import timedelta

import pytest

from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.db.tables import jobs
from tests.media import clips
from tests.serve.braked import HELD
from tests.serve.http_jobs import PATIENCE_SECONDS, completed, download, settings_of, submit, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HELD_FROM = 30
"""The frame from which on segments are held until something happened to the service."""


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    clips.make_clip(path, num_frames=60, size=(64, 48), cuts=(20,), audio_tracks=1, bframes=2)
    return path


@pytest.fixture(scope="module")
def undisturbed(video, tmp_path_factory):
    """What the command line makes of the video. The filter draws nothing by chance, so any seed gives the same."""
    target = tmp_path_factory.mktemp("undisturbed") / "film.mp4"
    restore_video(str(video), str(target), settings_of(0), LANCZOS, LanczosRestorer, report=False)
    return target.read_bytes()


def end(service, deployments):
    """Kill the replicas of some deployments, and wait until there are others."""
    before = {name: service.pids_of(name) for name in deployments}
    for pids in before.values():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    if "runner" in deployments:
        end_leases(service)
    for name, pids in before.items():
        service.wait_for(
            lambda name=name, pids=pids: set(service.pids_of(name)) - set(pids), PATIENCE_SECONDS, f"no new {name}"
        )


def end_leases(service):
    """Have the time pass after which what a killed runner held is anybody's.

    Leases that a test could wait for would also end while a busy machine lets a runner wait.
    """
    past = service.database.clock() - timedelta(seconds=1)
    with service.database.writing() as connection:
        connection.execute(jobs.update().where(jobs.c.runner.is_not(None)).values(lease_until=past))


def kill(*deployments):
    return lambda service, _: end(service, deployments)


def lose_power(service, _):
    service.kill()
    end_leases(service)
    service.start()


def restart(service, let_go):
    let_go()  # Draining waits for what replicas are at.
    service.stop()
    service.start()


FAULTS = [
    pytest.param("sqlite", kill("runner"), id="runner killed"),
    pytest.param("sqlite", kill("restorer-lanczos"), id="restorer killed"),
    pytest.param("sqlite", kill("api", "finisher"), id="ingress and finisher killed"),
    pytest.param("sqlite", restart, id="stopped and started"),
    pytest.param("sqlite", lose_power, id="everything killed"),
    pytest.param("postgresql", kill("runner", "restorer-lanczos"), id="runner and restorer killed, PostgreSQL"),
    pytest.param("postgresql", lose_power, id="everything killed, PostgreSQL"),
]


@pytest.mark.parametrize(("service", "fault"), FAULTS, indirect=["service"])
def test_a_job_ends_with_the_bytes_of_an_undisturbed_run_and_repeats_nothing_that_was_committed(
    service, fault, brake, seeds, video, undisturbed
):
    seed = next(seeds)
    brake.set(HELD, seed=seed, from_frame=HELD_FROM)
    with service.client() as client:
        job_id = submit(client, video, seed)
        until(client, job_id, lambda _: any(frame >= HELD_FROM for frame in brake.begun(seed)))
        committed = {frame for frame in brake.begun(seed) if frame < HELD_FROM}
        until(client, job_id, lambda job: job["progress"]["segments_done"] >= len(committed))
        fault(service, lambda: brake.set(0.2, seed=seed))
        brake.release()
        job = completed(client, job_id)
        result = download(client, job_id)
    assert hashlib.sha256(result).hexdigest() == job["result"]["sha256"]
    assert result == undisturbed
    begun = brake.begun(seed)
    assert len(committed) > 2
    assert {begun[frame] for frame in committed} == {1}
    assert max(begun.values()) <= 2


def test_replicas_that_a_new_configuration_replaces_hand_over_without_loss(service, brake, seeds, video):
    seed, replaced = next(seeds), ("runner", "restorer-lanczos")
    brake.set(0.1, seed=seed)
    with service.client() as client:
        job_id = submit(client, video, seed)
        until(client, job_id, lambda _: brake.begun(seed))
        before = {name: service.pids_of(name) for name in replaced}
        service.redeploy(
            {"name": "runner", "ray_actor_options": {"num_cpus": 0.12}},
            {"name": "restorer-lanczos", "ray_actor_options": {"num_cpus": 0.22}},
        )
        completed(client, job_id)
        for name in replaced:
            service.wait_for(lambda: not set(service.pids_of(name)) & set(before[name]), 120, f"{name} stays")  # noqa: B023
    # Segments that were being restored were finished, and the job was handed over and not lost.
    assert set(brake.begun(seed).values()) == {1}
    row = JobStore(service.database).get(job_id)
    assert row.num_tries == 2
