"""The /upscale API: what its requests mean, and its clients, a shell script with curl and jq among them."""

import asyncio
import base64
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from seedvr2_ray.errors import InputError
from seedvr2_ray.media.probe import probe
from seedvr2_ray.serve.config import FetchRules, Limits, ModelPool, ServiceConfig, UpscaleApi
from seedvr2_ray.serve.db.key_store import KeyStore
from seedvr2_ray.serve.http.upscale import RESOLUTIONS, chunk_settings, parse_upscale, status_of
from seedvr2_ray.serve.jobs import ErrorInfo, Job, JobState, Progress, ResultInfo, Source
from seedvr2_ray.serve.security.api_keys import make_key
from seedvr2_ray.serve.service.job_watch import Snapshot
from seedvr2_ray.serve.workers.local import LocalWorkers
from seedvr2_ray.serve.workers.protocol import PublishOrder
from seedvr2_ray.settings import RestoreSettings
from tests.media import clips
from tests.missing import require_programs
from tests.serve.deployment import Deployment, WatchedRestorers, deploy
from tests.serve.http_service import HttpService, served
from tests.serve.servers import saying, serving

FLEET = ServiceConfig(
    models={
        "seedvr2-3b": ModelPool(num_gpus=1),
        "seedvr2-7b": ModelPool(num_gpus=1, gang_size=4),
        "lanczos": ModelPool(),
    },
    default_model="seedvr2-3b",
    upscale=UpscaleApi(large_model="seedvr2-7b", standard_gpu_type="H100"),
)
STATUS_FIELDS = {
    "status",
    "progress",
    "elapsed_seconds",
    "download_url",
    "filename",
    "input_size_mb",
    "output_size_mb",
    "error",
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLIENT = Path(__file__).parents[1] / "upscale_client.sh"


@pytest.mark.parametrize(
    ("resolution", "model", "gpu_type"),
    [
        ("720p", "seedvr2-3b", "H100"),
        ("1080p", "seedvr2-3b", "H100"),
        ("2k", "seedvr2-7b", "4 GPUs"),
        ("4K", "seedvr2-7b", "4 GPUs"),
        (None, "seedvr2-3b", "H100"),
    ],
)
def test_large_resolutions_go_to_the_large_model(resolution, model, gpu_type):
    given = {"video_url": "https://example.org/v.mp4"} | ({} if resolution is None else {"resolution": resolution})
    request = parse_upscale(given, FLEET)
    assert (request.settings["model"], request.gpu_type) == (model, gpu_type)
    assert request.settings["resolution"] == RESOLUTIONS[(resolution or "1080p").lower()]


def test_without_rules_everything_goes_to_the_default_model():
    request = parse_upscale({"video_url": "https://example.org/v.mp4", "resolution": "4k"}, ServiceConfig())
    assert (request.settings["model"], request.gpu_type) == ("nano", "CPU")


@pytest.mark.parametrize("batch_size", [None, *range(1, 130)])
def test_a_batch_size_that_cannot_be_followed_is_noted_and_every_other_gives_usable_settings(batch_size):
    settings, note = chunk_settings(batch_size, largest=21)
    RestoreSettings(**settings)
    if batch_size in (1, 5, 9, 13, 17, 21):
        assert (settings["chunk_frames"], note) == (batch_size, None)
    else:
        assert settings == {}
        assert batch_size is None or f"batch_size {batch_size}" in note


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "exactly one of video_url and video_base64"),
        ({"video_url": "https://a.org/v.mp4", "video_base64": "AAAA"}, "exactly one of"),
        ({"video_url": 7}, "video_url must be a string, got int"),
        ({"video_base64": "AAAA", "resolution": "8k"}, "resolution must be one of 720p, 1080p, 2k, 4k; got '8k'"),
        ({"video_base64": "AAAA", "batch_size": 0}, "batch_size must be a whole number above 0, got 0"),
        ({"video_base64": "AAAA", "batch_size": "many"}, "batch_size must be a whole number"),
    ],
)
def test_what_cannot_be_upscaled_is_refused_in_one_sentence(given, reason):
    with pytest.raises(InputError, match=reason):
        parse_upscale(given, FLEET)


@pytest.mark.parametrize(
    "rules", [{"upscale": UpscaleApi(large_model="seedvr2-7b")}, {"model_aliases": {"seedvr2_3b": "seedvr2-7b"}}]
)
def test_rules_that_lead_to_a_model_that_is_not_deployed_are_refused_before_anybody_calls(rules):
    with pytest.raises(ValueError, match="is seedvr2-7b, which is not among models: lanczos, nano"):
        ServiceConfig(**rules)


def test_unknown_fields_are_noted():
    assert "'sharpness'" in parse_upscale({"video_base64": "AAAA", "sharpness": 3}, FLEET).note


def job(state: JobState, **changes) -> Snapshot:
    given = {
        "id": "job_1",
        "owner": "anna",
        "state": state,
        "source": Source(kind="upload", location="u", name="film.mp4", num_bytes=3 * 2**20),
        "settings": {},
        "priority": 0,
        "created_at": NOW,
        "version": 1,
        "finished_at": NOW + timedelta(seconds=90) if state.is_final else None,
    }
    return Snapshot(Job(**{**given, **changes}), 3 if state is JobState.QUEUED else None)


RESULT = ResultInfo(
    address="a",
    name="film-restored.mp4",
    media_type="video/mp4",
    num_bytes=7 * 2**20,
    sha256="s",
    width=1,
    height=1,
    num_frames=1,
)


@pytest.mark.parametrize("state", JobState)
def test_every_state_has_a_word_and_all_the_fields(state):
    status = status_of(job(state), download_url="http://x/r")
    assert set(status) == STATUS_FIELDS
    assert status["status"] in ("pending", "processing", "completed", "failed")
    assert isinstance(status["progress"], str)
    assert isinstance(status["elapsed_seconds"], float)


def test_a_completed_job_says_where_its_file_is_and_how_large():
    status = status_of(job(JobState.COMPLETED, result=RESULT), download_url="http://x/r")
    assert status == {
        "status": "completed",
        "progress": "completed",
        "elapsed_seconds": 90.0,
        "download_url": "http://x/r",
        "filename": "film-restored.mp4",
        "input_size_mb": 3.0,
        "output_size_mb": 7.0,
        "error": None,
    }


def test_a_failed_job_says_why_and_a_cancelled_one_that_it_was():
    error = ErrorInfo(kind="media", detail="the file is damaged", remedy="replace it")
    failed = status_of(job(JobState.FAILED, error=error), download_url="http://x/r")
    assert (failed["status"], failed["error"], failed["download_url"]) == ("failed", "the file is damaged", None)
    cancelled = status_of(job(JobState.CANCELLED), download_url="http://x/r")
    assert (cancelled["status"], cancelled["error"]) == ("failed", "the job was cancelled")


def test_progress_is_a_sentence():
    progress = Progress(frames_done=70, frames_total=288, frames_per_second=4.14, seconds_left=53.2)
    assert status_of(job(JobState.RESTORING, progress=progress), download_url=None)["progress"] == (
        "restored 70 of 288 frames (24 %), 4.1 frames/s, about 53 s left"
    )
    assert status_of(job(JobState.QUEUED), download_url=None)["progress"] == "waiting, number 3 in the queue"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clips.make_clip(path, num_frames=6, size=(320, 180))
    return path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    rules = FetchRules(allow_private=("127.0.0.0/8",))
    with served(deploy(tmp_path_factory.mktemp("upscale"), auth=("none",), fetch=rules)) as running:
        yield running


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def post(service: HttpService, key: str = "", **given) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return requests.post(f"{service.url}/upscale", json=given, headers=headers, timeout=240)


def ended(service: HttpService, job_id: str, key: str = "") -> dict:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for _ in range(2400):
        status = requests.get(f"{service.url}/status/{job_id}", headers=headers, timeout=120).json()
        if status["status"] in ("completed", "failed"):
            return status
        time.sleep(0.1)
    raise AssertionError(f"waited in vain; the job is {status}")


@pytest.mark.slow
def test_a_url_is_fetched_restored_and_can_be_downloaded_without_a_key(service, clip, tmp_path):
    with serving() as server:
        server.answers["/films/holiday.mp4"] = saying(clip.read_bytes())
        answer = post(service, video_url=server.url("/films/holiday.mp4"), resolution="720p", batch_size=100)
        assert answer.status_code == 200, answer.text
        assert {key: answer.json()[key] for key in ("gpu_type", "status")} == {"gpu_type": "CPU", "status": "pending"}
        assert "batch_size 100" in answer.json()["note"]
        status = ended(service, answer.json()["job_id"])
    assert (status["status"], status["error"]) == ("completed", None)
    assert status["filename"] == "holiday-restored.mp4"
    restored = tmp_path / "restored.mp4"
    restored.write_bytes(requests.get(status["download_url"], timeout=120).content)
    assert restored.stat().st_size / 2**20 == pytest.approx(status["output_size_mb"], abs=0.01)
    assert (probe(restored).video.width, probe(restored).video.height) == (1280, 720)


@pytest.mark.slow
def test_a_shell_script_with_curl_and_jq_submits_polls_and_downloads(service, clip, tmp_path):
    require_programs("curl", "jq")
    target = tmp_path / "upscaled.mp4"
    done = subprocess.run(
        ["bash", str(CLIENT), service.url, str(clip), str(target)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert probe(target).video.height == 720


@pytest.mark.slow
def test_the_script_ends_with_the_reason_when_a_job_fails(service, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    done = subprocess.run(
        ["bash", str(CLIENT), service.url, str(bad), str(tmp_path / "out")], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1
    assert "video.mp4" in done.stdout


@pytest.mark.slow
def test_media_that_are_not_base64_are_refused(service):
    answer = post(service, video_base64="no base64!")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("video_base64 is not base64: ")


@pytest.mark.slow
def test_a_job_is_shown_to_its_owner_only_and_ids_cannot_be_guessed(tmp_path, clip):
    with served(deploy(tmp_path), with_runner=False) as service:
        anna, ben = (_key(service, owner) for owner in ("anna", "ben"))
        assert post(service, video_base64=encoded(clip)).status_code == 401
        ids = [post(service, anna, video_base64=encoded(clip)).json()["job_id"] for _ in range(2)]
        assert len({*ids}) == 2
        assert all(len(job_id) >= 20 for job_id in ids)
        url = f"{service.url}/status/{ids[0]}"
        assert requests.get(url, headers={"X-API-Key": anna}, timeout=120).json()["status"] == "pending"
        assert requests.get(url, headers={"X-API-Key": ben}, timeout=120).status_code == 404
        assert requests.get(url, timeout=120).status_code == 401


@pytest.mark.slow
def test_the_address_for_downloads_is_the_operators(tmp_path, clip):
    with served(deploy(tmp_path, public_url="https://video.example.org/", auth=("none",))) as service:
        status = ended(service, post(service, video_base64=encoded(clip), resolution="720p").json()["job_id"])
        assert status["download_url"].startswith("https://video.example.org/v1/jobs/job_")


@pytest.mark.slow
def test_a_job_that_stalls_fails_with_the_reason(tmp_path, clip):
    may_end = threading.Event()
    stuck = WatchedRestorers(on_segment=lambda task: may_end.wait(240))
    limits = Limits(stall_seconds=0.5, max_segment_tries=2)
    with served(deploy(tmp_path, stuck, limits=limits, num_replicas=2, auth=("none",)), num_replicas=2) as service:
        status = ended(service, post(service, video_base64=encoded(clip), resolution="720p").json()["job_id"])
        may_end.set()
    assert status["status"] == "failed"
    assert "made no progress for 0.5 s" in status["error"]
    assert status["download_url"] is None


@pytest.mark.slow
def test_a_result_that_exists_is_found_even_if_the_worker_that_made_it_died(tmp_path, clip):
    restorers = WatchedRestorers()
    deployment = deploy(tmp_path, restorers, auth=("none",))
    with served(deployment, with_runner=False) as service:
        job_id = post(service, video_base64=encoded(clip), resolution="720p").json()["job_id"]
        asyncio.run(_publish_and_die(deployment))
        assert requests.get(f"{service.url}/status/{job_id}", timeout=120).json()["status"] == "processing"
        num_restored = len(restorers.begun)
    with served(deployment) as service:
        status = ended(service, job_id)
        assert status["status"] == "completed"
        assert requests.get(status["download_url"], timeout=120).ok
    assert len(restorers.begun) == num_restored


async def _publish_and_die(deployment: Deployment) -> None:
    """Run a runner up to the moment when the result is published and nobody has been told."""
    published = asyncio.Event()

    class Dying(LocalWorkers):
        async def publish(self, order: PublishOrder) -> ResultInfo:
            await super().publish(order)
            published.set()
            return await asyncio.Future()

    workers = Dying(deployment.layout)
    task = asyncio.create_task(deployment.runner(workers).run())
    try:
        async with asyncio.timeout(240):
            await published.wait()
    finally:
        task.cancel()
        await asyncio.wait([task])
        workers.close()
        deployment.let_leases_end()


def _key(service: HttpService, owner: str) -> str:
    key, token = make_key(owner, ["jobs:read", "jobs:write"], now=datetime.now(UTC))
    KeyStore(service.deployment.database).add(key)
    return token
