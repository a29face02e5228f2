"""The client against the service itself."""

import asyncio

import pytest

from seedvr2_ray.client.asynchronous import AsyncClient
from seedvr2_ray.client.blocking import Client
from seedvr2_ray.errors import SettingsError
from seedvr2_ray.media.probe import probe
from tests.media import clips
from tests.serve.http.v1.ingress import QUICK, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ingress(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service"), runs_jobs=True) as ingress:
        yield ingress


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clips.make_clip(path, num_frames=24, size=(64, 48))
    return path


def test_a_job_goes_from_a_file_to_a_file(ingress, clip, tmp_path):
    with Client(ingress.url) as client:
        assert [model.name for model in client.models()] == ["lanczos", "nano"]
        upload = client.upload(clip, piece_bytes=1000)
        estimate = client.estimate(upload, QUICK, gang_size=1)
        assert (estimate.width, estimate.height, estimate.refusals, estimate.gang_size) == (128, 96, (), 1)
        job = client.submit(upload, QUICK, metadata={"shelf": 7}, gang_size=1)
        seen = list(client.events(job, timeout_seconds=240))
        assert (seen[-1].state, seen[-1].metadata) == ("completed", {"shelf": 7})
        path = client.download(seen[-1], tmp_path)
        media = probe(str(path))
        assert (media.video.width, media.video.num_frames) == (128, 24)
        assert client.preview(job)[:2] == b"\xff\xd8"
        assert job.id in [each.id for each in client.jobs("completed")]
        assert client.usage().days[0].output_seconds > 0
        client.delete(job)


def test_the_asynchronous_client_does_it_too(ingress, clip, tmp_path):
    async def run():
        async with AsyncClient(ingress.url) as client:
            return await client.restore(clip, tmp_path / "out.mp4", QUICK)

    assert asyncio.run(run()).state == "completed"
    assert probe(str(tmp_path / "out.mp4")).video.num_frames == 24


def test_what_the_service_refuses_is_our_error(ingress, clip):
    with Client(ingress.url) as client, pytest.raises(SettingsError, match="did you mean resolution"):
        client.submit(clip, {"resolutoin": "x2"})


def test_a_gang_that_is_not_deployed_is_refused_by_estimate_and_job(ingress, clip):
    with Client(ingress.url) as client:
        upload = client.upload(clip)
        for ask in (client.estimate, client.submit):
            with pytest.raises(SettingsError, match="gangs of 1, not of 2"):
                ask(upload, QUICK, gang_size=2)
