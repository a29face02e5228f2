"""The application on a real Ray Serve, over HTTP: what needs Serve to be true."""

import contextlib
import json
import time
from collections import Counter

import pytest

from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.serve.config import ModelPool
from seedvr2_ray.settings import RestoreSettings
from tests.batch.restorers import TracingRestorers
from tests.media import clips
from tests.serve.running import start_service

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SETTINGS = {"model": "lanczos", "resolution": "x2", "segment_seconds": 0.5, "segment_overlap": 4, "preset": "ultrafast"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    clips.make_clip(path, num_frames=50, cuts=(20,), audio_tracks=1, bframes=2)
    return path


@pytest.fixture(scope="module")
def undisturbed(clip, tmp_path_factory):
    target = tmp_path_factory.mktemp("undisturbed") / "out.mp4"
    settings = RestoreSettings.from_mapping(SETTINGS)
    restore_video(str(clip), str(target), settings, LANCZOS, LanczosRestorer, report=False)
    return target.read_bytes()


@pytest.fixture(scope="module")
def restorers(tmp_path_factory):
    return TracingRestorers(str(tmp_path_factory.mktemp("traces")), pause_seconds=1.0)


@pytest.fixture(scope="module")
def service(tmp_path_factory, restorers):
    models = {"lanczos": ModelPool(num_cpus=0.2, max_replicas=1, downscale_to_zero_seconds=3.0)}
    with start_service(tmp_path_factory.mktemp("service"), models=models, restorers=restorers) as running:
        yield running


@pytest.fixture
def client(service):
    with service.client() as opened:
        yield opened


def submit(client, clip, **settings):
    with clip.open("rb") as file:
        answer = client.post(
            "/v1/jobs", files={"file": (clip.name, file)}, data={"settings": json.dumps({**SETTINGS, **settings})}
        )
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def wait_for(client, job_id, condition, seconds=150):
    deadline = time.monotonic() + seconds
    while True:
        # Whoever answers may be being replaced.
        with contextlib.suppress(OSError, ValueError):
            job = client.get(f"/v1/jobs/{job_id}").json()
            if condition(job):
                return job
        assert time.monotonic() < deadline, job
        time.sleep(0.1)


def has_ended(job):
    return job["state"] in ("completed", "failed", "cancelled")


def has_restored(num_segments):
    return lambda job: job["progress"]["segments_done"] >= num_segments or has_ended(job)


def test_a_model_starts_when_it_is_needed_restores_and_goes_again(service, client, clip, undisturbed):
    assert service.pids_of("restorer-lanczos") == []
    job = wait_for(client, submit(client, clip), has_ended)
    assert job["state"] == "completed", job
    assert client.get(f"/v1/jobs/{job['id']}/result").content == undisturbed
    service.wait_for(lambda: not service.pids_of("restorer-lanczos"), 90, "the idle replica does not go")


def test_a_service_that_is_stopped_gives_its_jobs_back_and_goes_on_where_it_was(
    service, client, clip, restorers, undisturbed
):
    before = len(restorers.traces())
    job_id = submit(client, clip, seed=4)
    assert not has_ended(wait_for(client, job_id, has_restored(2)))
    service.stop()
    service.start()
    job = wait_for(client, job_id, has_ended)
    assert job["state"] == "completed", job
    assert client.get(f"/v1/jobs/{job_id}/result").content == undisturbed
    begun = Counter(trace.key for trace in restorers.traces()[before:])
    assert sum(begun.values()) - len(begun) <= 1
