import asyncio

import pytest

from seedvr2_ray.serve.jobs import JobState
from tests.media import clips
from tests.serve.deployment import deploy


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    clips.make_clip(path, num_frames=50, cuts=(20,), audio_tracks=1, bframes=2)
    return path


def test_a_job_is_restored_and_published(clip, tmp_path):
    service = deploy(tmp_path)
    job = service.submit(clip)

    async def work():
        async with service.running():
            return await service.until(job)

    ended = asyncio.run(work())
    assert ended.state is JobState.COMPLETED, ended.error
    assert ended.result.name == "film-restored.mp4"
    assert service.master(ended)
