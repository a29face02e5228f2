"""Chunks are the published ones, and no frame is lost at the end of a stream."""

import random

import pytest

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.swiftvr.config import SWIFTVR, SwiftVRConfig
from seedvr2_ray.models.swiftvr.schedule import Intake, plan_schedule
from tests.models.swiftvr.tiny import CASES


def test_chunks_are_the_published_ones():
    assert len(CASES["schedule"]) > 20
    for case in CASES["schedule"]:
        chunks = [
            {
                "type": chunk.kind,
                "start": chunk.start,
                "count": chunk.count,
                "index": chunk.index,
                "first_decode": chunk.is_first,
                "latents": chunk.num_latents,
                "front_pad_latents": chunk.front_latents,
                "frames_out": chunk.num_decoded,
            }
            for chunk in plan_schedule(case["total_frames"], case["clip_len"])
        ]
        assert chunks == case["chunks"]


@pytest.mark.parametrize("clip_frames", [4, 8, 24])
def test_every_frame_goes_in_once_and_comes_out_with_fewer_than_four_others(clip_frames):
    for num_frames in range(1, 121):
        chunks = plan_schedule(num_frames, clip_frames)
        assert sum(chunk.count for chunk in chunks) == num_frames
        assert [chunk.start for chunk in chunks] == [sum(c.count for c in chunks[:i]) for i in range(len(chunks))]
        assert 0 <= sum(chunk.num_decoded for chunk in chunks) - num_frames < 4
        assert [chunk.kind for chunk in chunks].count("last") == 1
        assert all(chunk.count + chunk.num_repeats == 4 * chunk.num_latents for chunk in chunks)


@pytest.mark.parametrize("clip_frames", [4, 8, 24])
def test_chunks_do_not_depend_on_how_frames_are_split_over_calls(clip_frames):
    rng = random.Random(0)
    for num_frames in range(1, 80):
        whole, intake = Intake(clip_frames=clip_frames).take(range(num_frames))
        expected = [*whole, *intake.finish()]
        frames, found, intake = list(range(num_frames)), [], Intake(clip_frames=clip_frames)
        while frames:
            size = rng.randint(0, 9)
            ready, intake = intake.take(frames[:size])
            found += ready
            del frames[:size]
        assert [*found, *intake.finish()] == expected


def test_repeats_are_of_the_last_frame():
    _, intake = Intake(clip_frames=8).take("abcdefghij")
    first, last = intake.finish()
    assert ("".join(first.items), "".join(last.items)) == ("abcdefghijjj", "jjjj")


def test_a_stream_without_frames_has_no_chunk():
    assert Intake(clip_frames=8).finish() == []
    assert plan_schedule(0, 24) == ()


@pytest.mark.parametrize("clip_frames", [0, 3, 21, -4])
def test_a_clip_that_is_no_multiple_of_four_is_refused(clip_frames):
    with pytest.raises(SettingsError, match="clip_frames must be a positive multiple of 4"):
        SwiftVRConfig(transformer=SWIFTVR.transformer, reae=SWIFTVR.reae, clip_frames=clip_frames)


def test_an_overlap_longer_than_a_chunk_is_refused():
    with pytest.raises(SettingsError, match=r"overlap must lie in 0\.\.6"):
        SwiftVRConfig(transformer=SWIFTVR.transformer, reae=SWIFTVR.reae, overlap=7)
