"""A really running service whose files lie in an object store: every way in, progress, results and deletion."""

import hashlib

import fsspec
import httpx
import pytest

from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.serve.config import FetchRules
from tests.media import clips
from tests.s3_server import bucket, endpoint
from tests.serve.http.v1.ingress import upload
from tests.serve.http_jobs import PATIENCE_SECONDS, SETTINGS, completed, events, settings_of
from tests.serve.running import start_service

__all__ = ["bucket", "endpoint"]

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "Ferien am Meer.mp4"
    clips.make_clip(path, num_frames=60, size=(64, 48), cuts=(20,), audio_tracks=1)
    return path


@pytest.fixture
def service(bucket, video, tmp_path):
    """A service over a bucket, in which others keep videos too."""
    fsspec.filesystem("s3").put_file(str(video), f"{bucket}/archive/film.mp4")
    with start_service(
        tmp_path / "service",
        data=f"{bucket}/service",
        database_url=f"sqlite:///{tmp_path}/service.db",
        auth=("keys",),
        num_finishers=1,
        fetch=FetchRules(object_prefixes=(f"{bucket}/archive",)),
    ) as running:
        yield running


def put_past_the_service(client, video):
    content = video.read_bytes()
    answer = client.post("/v1/uploads/presigned", json={"name": video.name, "num_bytes": len(content)})
    assert answer.status_code == 201, answer.text
    signed = answer.json()
    # Whoever has the URL needs no key.
    assert httpx.request(signed["method"], signed["url"], content=content, timeout=240).status_code == 200
    return signed["id"]


def submit(client, source, seed):
    answer = client.post("/v1/jobs", json={"source": source, "settings": {**SETTINGS, "seed": seed}})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def left_in(bucket):
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    return {path.partition("/")[2] for path in store.find(bucket)}


def test_videos_that_come_and_stay_in_an_object_store_are_restored_like_any_others(service, bucket, video, tmp_path):
    # The filter draws nothing by chance, so any seed gives the same.
    restore_video(str(video), str(tmp_path / "own.mp4"), settings_of(0), LANCZOS, LanczosRestorer, report=False)
    expected = (tmp_path / "own.mp4").read_bytes()
    with service.client() as client:
        put = submit(client, {"upload": put_past_the_service(client, video)}, 1)
        told = list(events(client, put))
        done = [each["progress"]["segments_done"] for each in told]
        assert told[-1]["state"] == "completed", told[-1]
        assert done == sorted(done)
        assert done[-1] == told[-1]["progress"]["segments_total"] > 2

        tus = submit(client, {"upload": upload(client, video.read_bytes(), name=video.name, piece=4000)}, 2)
        source = {"url": f"{bucket}/archive/film.mp4"}
        named = submit(client, source, 3)
        jobs = [completed(client, job) for job in (put, tus, named)]
        for job in jobs:
            assert job["result"]["sha256"] == hashlib.sha256(expected).hexdigest()
            assert not job["result"]["was_cached"]
            # Whoever has the link needs no key.
            link = f"{service.base_url}{job['links']['result']}"
            assert httpx.get(link, timeout=60).raise_for_status().content == expected
            part = httpx.get(link, headers={"Range": "bytes=1000-1999"}, timeout=60)
            assert (part.status_code, part.content) == (206, expected[1000:2000])
            assert client.get(f"/v1/jobs/{job['id']}/preview/after").content[:2] == b"\xff\xd8"
        again = completed(client, submit(client, source, 1))
        assert again["result"]["was_cached"]

        estimate = client.post("/v1/estimate", json={"source": source, "settings": SETTINGS}).json()
        assert (estimate["width"], estimate["height"], estimate["refusals"]) == (128, 96, [])
        elsewhere = {"source": {"url": f"{bucket}/service/results/x"}, "settings": SETTINGS}
        assert client.post("/v1/jobs", json=elsewhere).status_code == 422

        for job in (*jobs, again):
            assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
        service.wait_for(
            lambda: all(name.startswith(("archive/", "service/identities/")) for name in left_in(bucket)),
            PATIENCE_SECONDS,
            "what deleted jobs used is still there",
        )
        assert "archive/film.mp4" in left_in(bucket)
        assert client.get(f"/v1/jobs/{put}/result").status_code == 410
