"""The RunPod API as its clients use it: plain scripts, curl, and the official SDK, over a real HTTP connection."""

import asyncio
import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
import requests
import runpod

from seedvr2_ray.errors import CapacityError
from seedvr2_ray.media.probe import probe
from seedvr2_ray.serve.config import Limits
from seedvr2_ray.serve.db.key_store import KeyStore
from seedvr2_ray.serve.http.runpod import routes
from seedvr2_ray.serve.security.api_keys import make_key
from tests.media import clips
from tests.serve.deployment import WatchedRestorers, deploy
from tests.serve.http_service import HttpService, served
from tests.serve.runpod_sdk import LONG, make_patient

pytestmark = pytest.mark.slow

ALIASES = {"seedvr2_3b": "lanczos", "seedvr2_7b_sharp": "lanczos"}
SMALL = {"res_h": 64, "res_w": 48}
"""Quickly restored."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clips.make_clip(path, num_frames=6)
    return path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    deployment = deploy(
        tmp_path_factory.mktemp("runpod"),
        auth=("none",),
        model_aliases=ALIASES,
        limits=Limits(max_upload_bytes=10**6),
    )
    with served(deployment) as running:
        yield running


@pytest.fixture
def endpoint(service: HttpService, monkeypatch: pytest.MonkeyPatch) -> runpod.Endpoint:
    """The SDK, pointed here as its users would."""
    return sdk(service, monkeypatch)


def sdk(service: HttpService, monkeypatch: pytest.MonkeyPatch, key: str = "any key", name: str = "any-endpoint"):
    make_patient(monkeypatch)
    monkeypatch.setattr(runpod, "endpoint_url_base", f"{service.url}/v2")
    monkeypatch.setattr(runpod, "api_key", key)
    # The SDK sleeps a second between looks.
    monkeypatch.setattr("runpod.endpoint.runner.time", SimpleNamespace(sleep=lambda seconds: time.sleep(0.05)))
    return runpod.Endpoint(name)


def runsync(service: HttpService, given: dict, **query) -> dict:
    response = requests.post(f"{service.endpoint}/runsync", json={"input": given}, params=query, timeout=240)
    assert response.status_code == 200, response.text
    return response.json()


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def size_of(media: str, folder: Path) -> tuple[int, int]:
    path = folder / "restored"
    path.write_bytes(base64.b64decode(media))
    video = probe(path).video
    return video.width, video.height


def test_a_plain_script_reads_success_and_media_at_the_top(service, clip, tmp_path):
    result = runsync(service, {"action": "restore", "media": encoded(clip), "media_type": "video", "seed": 42, **SMALL})
    assert result["success"] is True
    assert result["media"] == result["videos"]
    assert len(result["media"]) == 1
    assert result["media_type"] == "video"
    assert result["resolution"] == "64x48"
    assert result["processing_info"] == {
        "seed": 42,
        "cfg_scale": 1.0,
        "sample_steps": 1,
        "sequence_parallel_size": 1,
    }
    width, height = size_of(result["media"][0], tmp_path)
    # The clip is 96x64; the area of 64x48 in that shape is 67.9x45.3, made even downwards.
    assert (width, height) == (68, 44)


def test_the_envelope_holds_the_same_output(service, clip):
    result = runsync(service, {"action": "restore", "video": encoded(clip), **SMALL})
    assert result["status"] == "COMPLETED"
    assert result["executionTime"] >= 0
    output = result["output"]
    assert {key: result[key] for key in output} == output
    again = requests.get(f"{service.endpoint}/status/{result['id']}", timeout=120).json()
    assert again["output"] == output
    assert "media" not in again


def test_an_image_comes_back_as_an_image(service, tmp_path):
    source = tmp_path / "picture.jpg"
    clips.make_image(source, codec="mjpeg", pixel_format="yuvj444p")
    result = runsync(service, {"action": "restore", "image": encoded(source), "media_type": "auto", **SMALL})
    assert result["media_type"] == "image"
    assert base64.b64decode(result["media"][0]).startswith(b"\x89PNG")


def test_data_urls_are_taken(service, clip):
    result = runsync(service, {"action": "restore", "media": "data:video/mp4;base64," + encoded(clip), **SMALL})
    assert result["success"] is True


@pytest.mark.parametrize(
    "asked", [{"model_type": "seedvr2_3b"}, {"model_type": "seedvr2_7b", "model_variant": "sharp"}]
)
def test_an_answer_names_the_model_that_was_asked_for_and_the_one_that_did_it(service, clip, asked):
    result = runsync(service, {"action": "restore", "media": encoded(clip), **SMALL, **asked})
    assert {key: result[key] for key in asked} == asked
    assert result["model"] == "lanczos"


def test_the_action_health_has_the_documented_fields(service):
    result = runsync(service, {"action": "health"})
    expected = {
        "status": "healthy",
        "model_initialized": True,
        "model_type": "lanczos",
        "cuda_available": False,
        "gpu_memory": 0,
    }
    assert result["output"] == expected
    assert {key: value for key, value in result.items() if key in expected} == expected | {"status": "COMPLETED"}


def test_the_action_initialize_has_the_documented_fields(service):
    given = {"action": "initialize", "model_type": "seedvr2_7b", "model_variant": "sharp", "sp_size": 1}
    assert runsync(service, given)["output"] == {
        "message": "Model seedvr2_7b (sharp) initialized successfully",
        "model_type": "seedvr2_7b",
        "model_variant": "sharp",
        "sp_size": 1,
        "ready": True,
    }


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"action": "restore", "media": "AAAA", "model_type": "seedvr2_7b"}, "Model not initialized"),
        ({"action": "restore"}, "No video data provided"),
        ({"action": "restore", "media": "no base64!"}, "Invalid base64 video data: "),
        (
            {"action": "restore", "media": "bm8gdmlkZW8="},
            "Processing failed: ",
        ),
        (
            {"action": "initialize", "model_type": "seedvr2_7b"},
            "Model initialization failed: seedvr2_7b is not deployed here; this deployment has lanczos",
        ),
    ],
)
def test_errors_are_the_documented_ones_wherever_a_client_looks(service, endpoint, given, error):
    result = runsync(service, given)
    assert result["status"] == "FAILED"
    assert result["error"].startswith(error)
    assert result["output"]["error"] == result["error"]
    assert endpoint.run_sync(given) == result["output"]
    job = endpoint.run(given)
    assert job.status() == "FAILED"
    assert job.output() == result["output"]
    assert list(job.stream()) == []


def test_media_above_the_upload_limit_are_refused_with_the_limit(service):
    media = base64.b64encode(bytes(2 * 10**6)).decode()
    response = requests.post(f"{service.endpoint}/runsync", json={"input": {"media": media}}, timeout=240)
    assert response.status_code == 413
    assert "more than the 1 MB that this deployment accepts" in response.json()["error"]


@pytest.mark.parametrize("body", ["", "[]", '{"input": '])
def test_a_body_that_is_no_json_object_is_refused_under_error_too(service, body):
    response = requests.post(f"{service.endpoint}/run", data=body, timeout=120)
    assert response.status_code == 422
    assert response.json()["error"].startswith("the body")


def test_what_takes_longer_than_the_wait_goes_on_and_is_found_by_its_id(tmp_path, clip):
    may_go_on = threading.Event()
    restorers = WatchedRestorers(on_segment=lambda task: may_go_on.wait(240))
    with served(deploy(tmp_path, restorers, auth=("none",))) as service:
        result = runsync(service, {"action": "restore", "media": encoded(clip), **SMALL}, wait=100)
        assert result["status"] in ("IN_QUEUE", "IN_PROGRESS")
        assert "output" not in result
        may_go_on.set()
        _until(service, result["id"], "COMPLETED")


def test_the_sdk_waits_for_a_result(endpoint, clip, tmp_path):
    output = endpoint.run_sync({"input": {"action": "restore", "media": encoded(clip), **SMALL}}, timeout=240)
    assert output["success"] is True
    assert size_of(output["media"][0], tmp_path) == (68, 44)


def test_the_sdk_runs_a_job_and_reads_its_status_and_output(endpoint, clip):
    job = endpoint.run({"action": "restore", "media": encoded(clip), **SMALL})
    assert job.output(timeout=LONG)["success"] is True
    assert job.status() == "COMPLETED"


def test_the_asynchronous_sdk_runs_a_job_and_reads_its_output(service, clip, monkeypatch):
    monkeypatch.setattr(runpod, "endpoint_url_base", f"{service.url}/v2")

    async def work():
        async with aiohttp.ClientSession() as session:
            endpoint = runpod.AsyncioEndpoint("any-endpoint", session, api_key="any key")
            job = await endpoint.run({"action": "restore", "media": encoded(clip), **SMALL})
            assert [item async for item in job.stream()][-1]["state"] == "completed"
            assert (await endpoint.health())["jobs"]["completed"] >= 1
            return await job.output(timeout=LONG)

    assert asyncio.run(work())["success"] is True


def test_the_sdk_streams_progress_until_the_end(tmp_path, clip, monkeypatch):
    seen = threading.Event()
    restorers = WatchedRestorers(on_segment=lambda task: seen.wait(240))
    with served(deploy(tmp_path, restorers, auth=("none",))) as service:
        items = []
        job = sdk(service, monkeypatch).run({"action": "restore", "media": encoded(clip), **SMALL})
        for item in job.stream():
            items.append(item)
            if item["state"] == "restoring":
                seen.set()
        states = [item["state"] for item in items]
        assert "restoring" in states
        assert states[-1] == "completed"
        assert items[-1]["frames_done"] == items[-1]["frames_total"] > 0
        assert [item for number, item in enumerate(items) if item in items[:number]] == []
        assert job.output()["success"] is True


def test_the_sdk_cancels_a_job_that_runs_and_a_stream_of_it_ends(tmp_path, clip, monkeypatch):
    may_go_on = threading.Event()
    restorers = WatchedRestorers(on_segment=lambda task: may_go_on.wait(240))
    with served(deploy(tmp_path, restorers, auth=("none",))) as service:
        endpoint = sdk(service, monkeypatch)
        job = endpoint.run({"action": "restore", "media": encoded(clip), **SMALL})
        _until(service, job.job_id, "IN_PROGRESS")
        assert job.cancel() == {"id": job.job_id, "status": "CANCELLED"}
        _until(service, job.job_id, "CANCELLED")
        may_go_on.set()
        assert job.status() == "CANCELLED"
        assert runpod.endpoint.Job("any-endpoint", job.job_id, endpoint.rp_client).output(timeout=LONG) is None
        assert [item["state"] for item in job.stream()][-1] == "cancelled"
        assert job.cancel()["status"] == "CANCELLED"


def test_purging_removes_what_waits_at_that_endpoint_and_health_counts_jobs(tmp_path, clip, monkeypatch):
    with served(deploy(tmp_path, auth=("none",)), with_runner=False) as service:
        endpoint, other = sdk(service, monkeypatch), sdk(service, monkeypatch, name="other-endpoint")
        given = {"action": "restore", "media": encoded(clip), **SMALL}
        jobs = [endpoint.run(given) for _ in range(2)]
        kept = other.run(given)
        assert endpoint.health()["jobs"] == {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 3, "retried": 0}
        assert set(endpoint.health()["workers"]) >= {"idle", "running"}
        assert endpoint.purge_queue() == {"removed": 2, "status": "completed"}
        assert [job.status() for job in jobs] == ["CANCELLED", "CANCELLED"]
        assert kept.status() == "IN_QUEUE"


def test_purging_leaves_a_job_alone_that_is_taken_up_while_those_that_wait_are_listed(tmp_path, clip, monkeypatch):
    with served(deploy(tmp_path, auth=("none",)), with_runner=False) as service:
        endpoint, list_waiting = sdk(service, monkeypatch), routes._waiting
        jobs = [endpoint.run({"action": "restore", "media": encoded(clip), **SMALL}) for _ in range(2)]

        async def list_and_claim(*values):
            found = await list_waiting(*values)
            service.deployment.jobs.claim("runner", lease_seconds=60, limit=1)
            return found

        monkeypatch.setattr(routes, "_waiting", list_and_claim)
        assert endpoint.purge_queue() == {"removed": 1, "status": "completed"}
        assert not any(job.cancel_requested for job in service.deployment.jobs.list(owner=None).jobs if job.runner)
        assert sorted(job.status() for job in jobs) == ["CANCELLED", "IN_PROGRESS"]


def test_too_little_memory_is_said_in_the_documented_words(tmp_path, clip):
    def fill(task):
        raise CapacityError("lanczos needs 90 GiB and 80 GiB are free; choose a smaller resolution")

    with served(deploy(tmp_path, WatchedRestorers(on_segment=fill), auth=("none",))) as service:
        result = runsync(service, {"action": "restore", "media": encoded(clip), **SMALL})
        assert result["status"] == "FAILED"
        assert result["error"] == "Processing failed: CUDA out of memory"
        assert "90 GiB" in result["detail"]


def test_a_result_too_large_for_an_answer_is_named_by_a_link_that_opens_without_a_key(tmp_path, clip):
    limits = Limits(max_inline_result_bytes=100)
    deployment = deploy(tmp_path, limits=limits)
    with served(deployment) as service:
        key = _key(service, "anna")
        answer = requests.post(
            f"{service.endpoint}/runsync",
            json={"input": {"media": encoded(clip), **SMALL}},
            headers={"Authorization": f"Bearer {key}"},
            timeout=240,
        ).json()
        assert answer["status"] == "COMPLETED"
        assert answer["success"] is False
        assert answer["media"] == []
        assert answer["download_url"] in answer["error"]
        video = requests.get(answer["download_url"], timeout=120)
        assert (video.status_code, video.headers["content-type"]) == (200, "video/mp4")


def test_keys_are_asked_for_and_jobs_are_their_owners(tmp_path, clip, monkeypatch):
    with served(deploy(tmp_path), with_runner=False) as service:
        with pytest.raises(RuntimeError, match="401"):
            sdk(service, monkeypatch, key="wrong").run({"action": "health"})
        anna = sdk(service, monkeypatch, key=_key(service, "anna"))
        job = anna.run({"media": encoded(clip)})
        assert job.status() == "IN_QUEUE"
        ben = sdk(service, monkeypatch, key=_key(service, "ben"))
        job.rp_client = ben.rp_client
        with pytest.raises(requests.HTTPError, match="404"):
            job.status()
        assert ben.purge_queue()["removed"] == 0
        # RunPod's own examples for curl send the key without a scheme.
        bare = requests.get(f"{service.endpoint}/health", headers={"authorization": _key(service, "anna")}, timeout=120)
        assert bare.json()["jobs"]["inQueue"] == 1


def test_the_documented_curl_examples_work(service, clip, tmp_path):
    def curl(data: str) -> dict:
        command = ["curl", "-sS", "-X", "POST", f"{service.endpoint}/runsync", "-H", "Authorization: Bearer KEY"]
        command += ["-H", "Content-Type: application/json", "-d", data]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=240).stdout)

    assert curl('{"input": {"action": "health"}}')["status"] == "COMPLETED"
    data = json.dumps({"input": {"action": "restore", "video": encoded(clip), "res_h": 64, "res_w": 48}})
    assert size_of(curl(data)["videos"][0], tmp_path) == (68, 44)


def _key(service: HttpService, owner: str) -> str:
    key, token = make_key(owner, ["jobs:read", "jobs:write"], now=datetime.now(UTC))
    KeyStore(service.deployment.database).add(key)
    return token


def _until(service: HttpService, job_id: str, status: str) -> None:
    for _ in range(2400):
        now = requests.get(f"{service.endpoint}/status/{job_id}", timeout=120).json()["status"]
        if now == status:
            return
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {status}; the job is {now}")
