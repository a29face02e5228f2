"""Two drivers of one archive: whoever comes second finds what the first did, and spoils nothing. No Ray."""

from pathlib import Path

import pytest

from seedvr2_ray.batch.execution.finishing import PublishOrder, finish_part, order_part, publish_video, remove_work
from seedvr2_ray.batch.execution.rows import rows_of_video
from seedvr2_ray.batch.execution.videos import VideoOutcome
from seedvr2_ray.batch.execution.worker import SegmentWorker
from seedvr2_ray.restoration.work.failures import Failure
from seedvr2_ray.restoration.work.remaining import RESTORED
from seedvr2_ray.storage.records import Commit
from tests.batch.execution.one_video import finish_video, job_in, video_in
from tests.media.clips import make_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    make_clip(path, num_frames=14, cuts=(8,), size=(48, 32))
    return path


@pytest.mark.slow
def test_a_video_that_another_driver_published_and_cleaned_up_is_found_published(clip, tmp_path):
    job, target = job_in(tmp_path), tmp_path / "out.mp4"
    video = video_in(job, clip, target)  # The second driver plans before the first is done.
    restored = [each.commit for each in SegmentWorker(job).restore_rows(list(rows_of_video(video)))]
    finish_video(job, clip, target)
    published = target.read_bytes()

    # The first driver finished the part and removed what it was made of.
    known = {video.plan.segments[0].address: restored[0]}
    video.store(job).discard(RESTORED, video.plan.segments[0].address)
    assert isinstance(finish_part(order_part(video, 0, restored=known), job), Commit)

    # Then it removed everything: what is lost is planned again at once, without pauses, and not set aside.
    assert remove_work([video.source.content], job) is None
    lost = finish_part(order_part(video, 0, restored=known), job)
    assert isinstance(lost, Failure) and lost.consequence == "later"
    found = publish_video(PublishOrder(video=video, parts={}), job)
    assert isinstance(found, VideoOutcome) and found.state == "skipped"
    assert target.read_bytes() == published


def test_a_target_that_somebody_else_wrote_meanwhile_is_set_aside(clip, tmp_path):
    job, target = job_in(tmp_path), tmp_path / "out.mp4"
    video = video_in(job, clip, target)
    target.write_bytes(b"mine")
    refused = publish_video(PublishOrder(video=video, parts={}), job)
    assert isinstance(refused, Failure) and refused.consequence == "set_aside"
    assert "came into being while the job was at work" in refused.error
    assert target.read_bytes() == b"mine"
