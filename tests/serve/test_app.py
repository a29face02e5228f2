import json
import time

import pytest

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
def service(tmp_path_factory):
    with start_service(tmp_path_factory.mktemp("service")) as running:
        yield running


def submit(client, clip, **settings):
    with clip.open("rb") as file:
        answer = client.post(
            "/v1/jobs", files={"file": (clip.name, file)}, data={"settings": json.dumps({**SETTINGS, **settings})}
        )
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def wait_for_end(client, job_id, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = client.get(f"/v1/jobs/{job_id}").json()
        if job["state"] in ("completed", "failed", "cancelled"):
            return job
        time.sleep(0.1)
    raise AssertionError(job)


def test_an_uploaded_file_is_restored_over_http(service, clip):
    with service.client() as client:
        job = wait_for_end(client, submit(client, clip))
        assert job["state"] == "completed", job
        result = client.get(f"/v1/jobs/{job['id']}/result")
    assert result.status_code == 200
    assert len(result.content) == job["result"]["num_bytes"]
