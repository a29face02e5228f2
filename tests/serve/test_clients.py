"""Clients that were written for other services, against the real thing: Ray Serve, replicas, HTTP, nothing replaced."""

import base64
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
import requests
import runpod

from seedvr2_ray.media.probe import probe
from tests.media import clips
from tests.missing import require_programs
from tests.serve.running import RunningService
from tests.serve.runpod_sdk import LONG, make_patient
from tests.serve.servers import saying, serving

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
]

ENDPOINT = "seedvr2"
OWNER = "a client"
SMALL = {"action": "restore", "res_h": 64, "res_w": 48, "model_type": "seedvr2_3b"}


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    """What the clients of these tests are made of."""
    require_programs("curl", "jq")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clips.make_clip(path, num_frames=6, audio_tracks=1)
    return path


@pytest.fixture
def endpoint(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> runpod.Endpoint:
    make_patient(monkeypatch)
    monkeypatch.setattr(runpod, "endpoint_url_base", f"{service.base_url}/v2")
    monkeypatch.setattr(runpod, "api_key", service.token(OWNER))
    return runpod.Endpoint(ENDPOINT)


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def require_restored(media: str, folder: Path) -> None:
    path = folder / "restored.mp4"
    path.write_bytes(base64.b64decode(media))
    found = probe(path)
    assert (found.video.width, found.video.height, found.video.num_frames) == (68, 44, 6)


def test_the_sdk_runs_waits_streams_cancels_purges_and_asks_for_health(endpoint, clip, tmp_path):
    given = {**SMALL, "media": encoded(clip), "seed": 1}
    require_restored(endpoint.run_sync({"input": given}, timeout=240)["media"][0], tmp_path)

    job = endpoint.run({**given, "seed": 2})
    items = list(job.stream())
    assert items[-1]["state"] == "completed"
    assert job.status() == "COMPLETED"
    require_restored(job.output()["videos"][0], tmp_path)

    assert endpoint.run({**given, "seed": 3}).output(timeout=LONG)["success"] is True
    assert endpoint.run({"action": "health"}).output(timeout=LONG)["status"] == "healthy"

    job = endpoint.run({**given, "seed": 4})
    assert job.cancel(timeout=240)["status"] in ("CANCELLED", "COMPLETED")
    assert endpoint.purge_queue(timeout=240)["status"] == "completed"
    jobs = endpoint.health(timeout=240)["jobs"]
    assert jobs["completed"] >= 3
    assert jobs["inQueue"] == 0


def test_the_documented_python_and_curl_examples_work(service, clip, tmp_path):
    url = f"{service.base_url}/v2/{ENDPOINT}/runsync"
    response = requests.post(
        url,
        headers={"Authorization": f"Bearer {service.token(OWNER)}"},
        json={"input": {**SMALL, "media": encoded(clip), "media_type": "video", "seed": 42}},
        timeout=240,
    )
    result = response.json()
    assert result.get("success"), result.get("error")
    require_restored(result["media"][0], tmp_path)

    command = ["curl", "-sS", "-X", "POST", url, "-H", f"Authorization: Bearer {service.token(OWNER)}"]
    command += ["-H", "Content-Type: application/json", "-d"]
    data = json.dumps({"input": {"action": "restore", "video": encoded(clip), "res_h": 64, "res_w": 48}})
    answers = [
        json.loads(subprocess.run([*command, each], check=True, capture_output=True, timeout=240).stdout)
        for each in ('{"input": {"action": "health"}}', data)
    ]
    assert answers[0]["model_initialized"] is True
    require_restored(answers[1]["videos"][0], tmp_path)


@pytest.mark.parametrize("kind", ["file", "url"])
def test_a_shell_script_submits_polls_and_downloads(service, clip, tmp_path, kind):
    client, target = Path(__file__).parent / "upscale_client.sh", tmp_path / "upscaled.mp4"
    # The script knows of no keys; curl's own configuration gives it one.
    (tmp_path / ".curlrc").write_text(f'header = "X-API-Key: {service.token(OWNER)}"\n')
    environ = {**os.environ, "CURL_HOME": str(tmp_path)}
    with serving() as server:
        server.answers["/clip.mp4"] = saying(clip.read_bytes())
        video = str(clip) if kind == "file" else server.url("/clip.mp4")
        done = subprocess.run(
            ["bash", str(client), service.base_url, video, str(target)],
            capture_output=True,
            text=True,
            timeout=240,
            env=environ,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (probe(target).video.height, probe(target).video.num_frames) == (720, 6)


def test_many_clients_wait_at_the_same_time(service, clip):
    answers: list[dict] = []

    def ask(seed: int) -> None:
        given = {**SMALL, "media": encoded(clip), "seed": seed}
        url = f"{service.base_url}/v2/{ENDPOINT}/runsync"
        answers.append(requests.post(url, json={"input": given}, headers=service.headers(OWNER), timeout=240).json())

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(100, 106)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer["processing_info"]["seed"] for answer in answers) == list(range(100, 106))
